"""Expand K and V to the query heads, then `scaled_dot_product_attention` as for multi-head attention."""

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
from gqabench.attention_impls.parts.formulas.expansion import expand_kv
from gqabench.attention_impls.problem import AttentionProblem


class RepeatKvSdpa(AttentionImpl):
    """What model code did before PyTorch knew grouped heads, and often still does."""

    name = "repeat_kv_sdpa"
    has_backward = True
    timed_call = TimedCall(kv_expansion=Copying.WHOLE, dequantisation=Copying.WHOLE)

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        return [*device_reasons(problem), *unpaged_reasons(problem), *no_soft_cap_reasons(problem)]

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        call = SdpaCall.for_problem(problem)

        cache = ContiguousCache.of(problem, inputs)

        def run() -> torch.Tensor:
            k_BHKD, v_BHKD = (expand_kv(kv_BGKD, problem.group_size) for kv_BGKD in cache.read())
            return call(inputs.q, k_BHKD, v_BHKD)

        return PreparedAttention(run, cache.nbytes)
