"""`scaled_dot_product_attention(enable_gqa=True)`, with the kernel that PyTorch chooses."""

from __future__ import annotations

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


class Sdpa(AttentionImpl):
    """What PyTorch runs for a caller that asks for grouped attention and nothing more."""

    name = "sdpa"
    has_backward = True
    timed_call = TimedCall(kv_expansion=Copying.UNKNOWN, dequantisation=Copying.WHOLE)

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        return [*device_reasons(problem), *unpaged_reasons(problem), *no_soft_cap_reasons(problem)]

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        call = SdpaCall.for_problem(problem)
        cache = ContiguousCache.of(problem, inputs)
        return PreparedAttention(lambda: call(inputs.q, *cache.read()), cache.nbytes)
