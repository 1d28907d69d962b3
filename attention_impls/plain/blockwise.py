"""Plain attention over a contiguous cache, some keys at a time."""

from __future__ import annotations

from gqabench.attention_impls.abilities import device_reasons, unpaged_reasons
from gqabench.attention_impls.contract import (
    AttentionImpl,
    AttentionInputs,
    Copying,
    PreparedAttention,
    TimedCall,
)
from gqabench.attention_impls.parts.caches.contiguous import ContiguousCache
from gqabench.attention_impls.parts.formulas.blockwise import BlockwiseFormula
from gqabench.attention_impls.problem import AttentionProblem


class Blockwise(AttentionImpl):
    """`grouped_matmul` with a running softmax, so that what it dequantises stays small."""

    name = "blockwise"
    timed_call = TimedCall(dequantisation=Copying.TILES)

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        return [*device_reasons(problem), *unpaged_reasons(problem)]

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        formula = BlockwiseFormula.for_problem(problem)
        cache = ContiguousCache.of(problem, inputs)
        return PreparedAttention(lambda: formula(inputs.q, cache), cache.nbytes)
