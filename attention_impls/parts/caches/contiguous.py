"""The plainest cache: K and V contiguous, in the problem's dtype or quantised.

Shape suffixes: B batch, G key/value heads, K tokens, D head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gqabench.attention_impls.contract import AttentionInputs
from gqabench.attention_impls.dtypes import torch_dtype
from gqabench.attention_impls.parts.caches.quantisation import QuantisedTensor, quantise
from gqabench.attention_impls.problem import AttentionProblem

ALL_KEYS = slice(None)


@dataclass(frozen=True)
class ContiguousCache:
    """K and V of every sequence at full length: the inputs themselves, or a quantised copy of them."""

    k: torch.Tensor | QuantisedTensor
    """`[B, G, K, D]`"""
    v: torch.Tensor | QuantisedTensor
    dtype: torch.dtype
    """Of what is read"""

    @classmethod
    def of(cls, problem: AttentionProblem, inputs: AttentionInputs) -> ContiguousCache:
        """Store K and V of a problem, quantised if it has a `kv_dtype`."""
        if problem.kv_dtype is None:
            return cls(inputs.k, inputs.v, torch_dtype(problem))
        k, v = quantise(inputs.k, problem.kv_dtype), quantise(inputs.v, problem.kv_dtype)
        return cls(k, v, torch_dtype(problem))

    @property
    def nbytes(self) -> int:
        return self.k.nbytes + self.v.nbytes

    def read(self, keys: slice = ALL_KEYS) -> tuple[torch.Tensor, torch.Tensor]:
        """Read some tokens of K and V, `[B, G, K, D]` in `dtype`: views, or dequantised copies."""
        return self._part(self.k, keys), self._part(self.v, keys)

    def _part(self, kv: torch.Tensor | QuantisedTensor, keys: slice) -> torch.Tensor:
        if isinstance(kv, QuantisedTensor):
            return QuantisedTensor(kv.values[:, :, keys], kv.scales[:, :, keys]).dequantise(self.dtype)
        return kv if keys == ALL_KEYS else kv[:, :, keys]
