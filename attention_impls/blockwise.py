"""Plain attention over a contiguous cache, some keys at a time."""

from __future__ import annotations

from attention_impls.abilities import device_reasons, unpaged_reasons
from attention_impls.caches.contiguous import ContiguousCache
from attention_impls.contract import AttentionImpl, AttentionInputs, Copying, PreparedAttention, TimedCall
from attention_impls.formulas.blockwise import BlockwiseFormula
from attention_impls.problem import AttentionProblem


class Blockwise(AttentionImpl):
    """`grouped_matmul` with a running softmax: what it makes of a quantised cache stays small."""

    name = "blockwise"
    timed_call = TimedCall(dequantisation=Copying.TILES)

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        return [*device_reasons(problem), *unpaged_reasons(problem)]

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        formula = BlockwiseFormula.for_problem(problem)
        cache = ContiguousCache.of(problem, inputs)
        return PreparedAttention(lambda: formula(inputs.q, cache), cache.nbytes)
