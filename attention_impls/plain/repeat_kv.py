"""The textbook: expand K and V to the query heads, then two matrix products around a softmax.

Shape suffixes: B batch, G key/value heads, H query heads, Q q_len, K kv_len, D head_dim.
"""

from __future__ import annotations

import torch

from gqabench.attention_impls.abilities import device_reasons, unpaged_reasons
from gqabench.attention_impls.contract import (
    AttentionImpl,
    AttentionInputs,
    Copying,
    PreparedAttention,
    TimedCall,
)
from gqabench.attention_impls.parts.caches.contiguous import ContiguousCache
from gqabench.attention_impls.parts.formulas.expansion import expand_kv
from gqabench.attention_impls.parts.formulas.masks import additive_mask
from gqabench.attention_impls.parts.formulas.probabilities import attention_probabilities
from gqabench.attention_impls.problem import AttentionProblem


class RepeatKv(AttentionImpl):
    """`repeat_interleave`, then plain attention: a small cache, copied to full size in each call."""

    name = "repeat_kv"
    has_backward = True
    timed_call = TimedCall(kv_expansion=Copying.WHOLE, dequantisation=Copying.WHOLE)

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        return [*device_reasons(problem), *unpaged_reasons(problem)]

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        mask = additive_mask(problem)
        bias_B1QK = None if mask is None else mask.bias
        cache = ContiguousCache.of(problem, inputs)

        def run() -> torch.Tensor:
            k_BHKD, v_BHKD = (expand_kv(kv_BGKD, problem.group_size) for kv_BGKD in cache.read())
            products_BHQK = inputs.q @ k_BHKD.mT
            probs_BHQK = attention_probabilities(
                products_BHQK, problem.scale, problem.logits_soft_cap, bias_B1QK
            )
            output_BHQD = probs_BHQK @ v_BHKD
            return output_BHQD if mask is None else mask.zero_dead_rows(output_BHQD)

        return PreparedAttention(run, cache.nbytes)
