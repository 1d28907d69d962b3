"""Plain attention over a paged cache, some pages at a time."""

from __future__ import annotations

from gqabench.attention_impls.abilities import device_reasons
from gqabench.attention_impls.contract import (
    AttentionImpl,
    AttentionInputs,
    Copying,
    PreparedAttention,
    TimedCall,
)
from gqabench.attention_impls.parts.caches.paged import PagedCache
from gqabench.attention_impls.parts.formulas.blockwise import BlockwiseFormula
from gqabench.attention_impls.problem import AttentionProblem


class PagedGrouped(AttentionImpl):
    """`blockwise` over pages, gathered tile by tile, so that no copy grows with the context."""

    name = "paged_grouped"
    reads_cache_in_place = False
    timed_call = TimedCall(layout_conversion=Copying.TILES, dequantisation=Copying.TILES)

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        return device_reasons(problem)

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        cache = PagedCache.of(problem, inputs)
        formula = BlockwiseFormula.for_problem(problem, cache.page_size)
        return PreparedAttention(lambda: formula(inputs.q, cache), cache.nbytes)
