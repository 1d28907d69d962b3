"""Decode with the group folded into the query length: one head of `group_size` queries per key/value head.

A decode step has one query per head, and all heads of a group see the same keys. So they can be passed as the
queries of one head, and any kernel for multi-head attention reads K and V once, in place.

Shape suffixes: B batch, G key/value heads, S group_size, H query heads (G * S), D head_dim.
"""

from __future__ import annotations

import torch

from gqabench.attention_impls.abilities import device_reasons, no_soft_cap_reasons, unpaged_reasons
from gqabench.attention_impls.contract import (
    AttentionImpl,
    AttentionInputs,
    Copying,
    PreparedAttention,
    TimedCall,
)
from gqabench.attention_impls.parts.caches.contiguous import ContiguousCache
from gqabench.attention_impls.parts.calls.sdpa_call import SdpaCall
from gqabench.attention_impls.problem import AttentionProblem


class FoldedSdpa(AttentionImpl):
    """`[B, G, S, D]` queries through `scaled_dot_product_attention`; PyTorch chooses the kernel."""

    name = "folded_sdpa"
    timed_call = TimedCall(dequantisation=Copying.WHOLE)

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        reasons = [*device_reasons(problem), *unpaged_reasons(problem), *no_soft_cap_reasons(problem)]
        if problem.q_len != 1:
            reasons.append(
                f"q_len={problem.q_len}: the group takes the place of the query length, so q_len must be 1"
            )
        return reasons

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        call = SdpaCall.for_problem(problem)  # its mask has one query row, which all heads of a group share
        cache = ContiguousCache.of(problem, inputs)
        folded = (problem.batch_size, problem.num_kv_heads, problem.group_size, problem.head_dim)

        def run() -> torch.Tensor:
            output_BGSD = call(inputs.q.reshape(folded), *cache.read())
            return output_BGSD.reshape(inputs.q.shape)

        return PreparedAttention(run, cache.nbytes)
