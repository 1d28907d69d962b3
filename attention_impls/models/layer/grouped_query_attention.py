"""Grouped-query attention as a layer of a decoder (Ainslie et al. 2023, arXiv 2305.13245).

Shape suffixes: B batch, H query heads, G key/value heads, L new tokens, D head_dim, E hidden_size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from gqabench.attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention
from gqabench.attention_impls.dtypes import torch_dtype
from gqabench.attention_impls.models.layer.kv_cache import KvCache
from gqabench.attention_impls.models.layer.rope import DEFAULT_THETA, rope_tables, rotate
from gqabench.attention_impls.plugins.promises import as_prepared, reads_cache_in_place, stated_reasons
from gqabench.attention_impls.problem import AttentionProblem
from gqabench.attention_impls.registry import get_impl


@dataclass(frozen=True)
class _PreparedStep:
    """Attention prepared for one shape and one position of the cache."""

    problem: AttentionProblem
    q: torch.Tensor
    """`[B, H, L, D]`: what the prepared attention reads when called"""
    attention: PreparedAttention
    mode: tuple[bool, torch.device]
    """Whether it was prepared in `torch.inference_mode`, whose tensors are useless outside, and the device"""


class GroupedQueryAttention(nn.Module):
    """Projections, RoPE, a KV cache, attention by any implementation, and the output projection. No biases.

    For inference: nothing is recorded for a backward pass.

    `attention` is the problem that the layer grows into: `batch_size` and `kv_len` are the cache's capacity,
    `q_len` does not matter; heads, dtype, device, window, scale and soft cap hold for every call.
    """

    def __init__(
        self,
        attention: AttentionProblem,
        impl: str | AttentionImpl,
        hidden_size: int | None = None,
        rope_theta: float = DEFAULT_THETA,
    ) -> None:
        """Build the layer around an implementation or its name.

        `hidden_size` None means `num_q_heads * head_dim`.

        Raises `ValueError` for a problem that no such layer has (ragged, not causal, of odd `head_dim`, or
        with a quantised or paged cache), and for one that the implementation supports neither with one token
        nor with all.
        """
        super().__init__()
        if reasons := layer_shape_reasons(attention):
            raise ValueError("; ".join(reasons))
        dtype, head_dim = torch_dtype(attention), attention.head_dim
        q_width, kv_width = attention.num_q_heads * head_dim, attention.num_kv_heads * head_dim
        self.attention = attention
        self.hidden_size = q_width if hidden_size is None else hidden_size
        self.impl = get_impl(impl) if isinstance(impl, str) else impl
        self._step: _PreparedStep | None = None
        self._require_possible()
        self.w_q = nn.Linear(self.hidden_size, q_width, bias=False, dtype=dtype, device=attention.device)
        self.w_k = nn.Linear(self.hidden_size, kv_width, bias=False, dtype=dtype, device=attention.device)
        self.w_v = nn.Linear(self.hidden_size, kv_width, bias=False, dtype=dtype, device=attention.device)
        self.w_o = nn.Linear(q_width, self.hidden_size, bias=False, dtype=dtype, device=attention.device)
        self.cache = KvCache(
            attention.batch_size, attention.num_kv_heads, attention.kv_len, head_dim, dtype, attention.device
        )
        positions_L = torch.arange(attention.kv_len, device=attention.device)
        # Rotated in float32 and rounded once, as in Llama's original code.
        cos_LF, sin_LF = rope_tables(positions_L, head_dim, rope_theta, torch.float32)
        self._cos: torch.Tensor
        self._sin: torch.Tensor
        self.register_buffer("_cos", cos_LF, persistent=False)
        self.register_buffer("_sin", sin_LF, persistent=False)

    @torch.no_grad()
    def forward(self, hidden_BLE: torch.Tensor) -> torch.Tensor:
        """Append `L` tokens to every sequence and attend from them: `[B, L, hidden_size]` to the same shape.

        Raises `ValueError`, and leaves the cache unchanged, for another shape, dtype or number of sequences,
        when the cache is full, and when the implementation does not support the resulting problem.
        """
        self._require_hidden(hidden_BLE)
        batch_size, num_tokens, _ = hidden_BLE.shape
        self.cache.require_room(batch_size, num_tokens)
        problem = replace(
            self.attention, batch_size=batch_size, q_len=num_tokens, kv_len=self.cache.kv_len + num_tokens
        )
        self._require_served(problem)
        new = slice(self.cache.kv_len, self.cache.kv_len + num_tokens)
        q_BHLD = rotate(self._split_heads(self.w_q(hidden_BLE)), self._cos[new], self._sin[new])
        k_BGLD = rotate(self._split_heads(self.w_k(hidden_BLE)), self._cos[new], self._sin[new])
        self.cache.append(k_BGLD, self._split_heads(self.w_v(hidden_BLE)))
        try:
            output_BHLD = self._attend(problem, q_BHLD)
        except BaseException:
            self.cache.rewind(new.start)  # a call that fails must append nothing
            raise
        return self.w_o(output_BHLD.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    @property
    def kv_cache_bytes(self) -> int:
        """Bytes held for the cache: the layer's own, and that of an implementation which keeps another."""
        if self._step is None or reads_cache_in_place(self.impl):
            return self.cache.nbytes
        return self.cache.nbytes + self._step.attention.kv_cache_bytes

    def reset(self) -> None:
        """Forget all tokens."""
        self.cache.reset()

    def rewind(self, kv_len: int) -> None:
        """Forget all but the first `kv_len` tokens."""
        self.cache.rewind(kv_len)

    def _attend(self, problem: AttentionProblem, q_BHLD: torch.Tensor) -> torch.Tensor:
        """Attend over the cache; prepare again unless shape, position and mode are unchanged."""
        step, mode = self._step, (torch.is_inference_mode_enabled(), q_BHLD.device)
        is_ready = step is not None and step.problem == problem and step.mode == mode
        if step is None or not is_ready or not reads_cache_in_place(self.impl):
            inputs = AttentionInputs(q_BHLD.contiguous(), *self.cache.held(problem.batch_size))
            prepared = as_prepared(self.impl.prepare(problem, inputs))
            step = _PreparedStep(problem, inputs.q, prepared, mode)
            self._step = step
        else:
            step.q.copy_(q_BHLD)
        return step.attention()

    def _require_possible(self) -> None:
        """Raise `ValueError` if the implementation supports no step, neither of one token nor of many."""
        one, many = (replace(self.attention, q_len=q_len) for q_len in (1, self.attention.kv_len))
        if stated_reasons(self.impl, many):
            self._require_served(one)

    def _require_served(self, problem: AttentionProblem) -> None:
        is_ready = self._step is not None and self._step.problem == problem
        if not is_ready and (reasons := stated_reasons(self.impl, problem)):
            raise ValueError(f"impl={self.impl.name}: cannot be used in this layer: {'; '.join(reasons)}")

    def _split_heads(self, projected_BLX: torch.Tensor) -> torch.Tensor:
        """Reshape `[B, L, heads * head_dim]` to `[B, heads, L, head_dim]`."""
        batch_size, num_tokens, _ = projected_BLX.shape
        return projected_BLX.view(batch_size, num_tokens, -1, self.attention.head_dim).transpose(1, 2)

    def _require_hidden(self, hidden: torch.Tensor) -> None:
        expected = f"[batch_size, num_tokens, {self.hidden_size}]"
        if hidden.dim() != 3 or hidden.shape[-1] != self.hidden_size or 0 in hidden.shape:
            raise ValueError(f"hidden of shape {list(hidden.shape)}: must be {expected}, each 1 or more")
        dtype = torch_dtype(self.attention)
        if hidden.dtype != dtype:
            raise ValueError(f"hidden of dtype {hidden.dtype}: must be {dtype}, the layer's own")


def layer_shape_reasons(attention: AttentionProblem) -> list[str]:
    """Return why this layer cannot have an attention problem, whatever the implementation."""
    reasons = []
    if attention.kv_lens is not None:
        reasons.append(
            f"kv_lens={list(attention.kv_lens)}: the layer appends to sequences of one length; must be null"
        )
    if attention.kv_dtype is not None:
        reasons.append(f"kv_dtype={attention.kv_dtype}: the layer's own cache is in dtype; must be null")
    if attention.page_size is not None:
        reasons.append(f"page_size={attention.page_size}: the layer's own cache has no pages; must be null")
    if attention.head_dim % 2:
        reasons.append(f"head_dim={attention.head_dim}: RoPE rotates pairs, so it must be even")
    if not attention.causal:
        reasons.append("causal=False: the layer is a decoder's; must be true")
    return reasons
