"""A paged cache for a kernel without page tables: gather all pages, then attend."""

from __future__ import annotations

import torch

from gqabench.attention_impls.abilities import device_reasons
from gqabench.attention_impls.contract import (
    AttentionImpl,
    AttentionInputs,
    Copying,
    PreparedAttention,
    TimedCall,
)
from gqabench.attention_impls.parts.caches.paged import PagedCache
from gqabench.attention_impls.parts.formulas.grouped import GroupedFormula
from gqabench.attention_impls.problem import AttentionProblem


class PagedGather(AttentionImpl):
    """Paging without a paged kernel: each call copies the whole cache, then runs `grouped_matmul`."""

    name = "paged_gather"
    reads_cache_in_place = False
    timed_call = TimedCall(layout_conversion=Copying.WHOLE, dequantisation=Copying.WHOLE)

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        return device_reasons(problem)

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        formula = GroupedFormula.for_problem(problem)
        cache = PagedCache.of(problem, inputs)

        def run() -> torch.Tensor:
            return formula(inputs.q, *cache.read())

        return PreparedAttention(run, cache.nbytes)
