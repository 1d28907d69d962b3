"""Plain attention without expansion, over a contiguous cache."""

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
from gqabench.attention_impls.parts.formulas.grouped import GroupedFormula
from gqabench.attention_impls.problem import AttentionProblem


class GroupedMatmul(AttentionImpl):
    """Two matrix products and a softmax. An unquantised cache is read in place, a quantised one is copied."""

    name = "grouped_matmul"
    has_backward = True
    timed_call = TimedCall(dequantisation=Copying.WHOLE)

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        return [*device_reasons(problem), *unpaged_reasons(problem)]

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        formula = GroupedFormula.for_problem(problem)
        cache = ContiguousCache.of(problem, inputs)

        def run() -> torch.Tensor:
            return formula(inputs.q, *cache.read())

        return PreparedAttention(run, cache.nbytes)
