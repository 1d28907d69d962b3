"""A problem's cache in the form of FlashInfer (Ye et al. 2025, arXiv 2501.01005): pages in a ragged list."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gqabench.attention_impls.contract import AttentionInputs
from gqabench.attention_impls.parts.caches.paged import PagedCache
from gqabench.attention_impls.parts.calls.cuda_peer import cuda_peer_reasons, starts_on_device
from gqabench.attention_impls.problem import AttentionProblem

WORKSPACE_BYTES = 128 * 2**20
"""What FlashInfer's documentation recommends for its wrappers."""
HEAD_DIMS = (64, 128, 256)
"""Of its kernels fa2 and fa3. XQA takes others."""


@dataclass(frozen=True)
class FlashinferPages:
    """The pool of pages, and the pages of all sequences in one list."""

    cache: PagedCache
    pools: tuple[torch.Tensor, torch.Tensor]
    """K and V, `[num_pages, page_size, num_kv_heads, head_dim]`"""
    starts: torch.Tensor
    """int32 `[B + 1]`: where the pages of each sequence start in `pages`"""
    pages: torch.Tensor
    """int32 `[num_pages]`"""
    last_page_lengths: torch.Tensor
    """int32 `[B]`: tokens in the last page of each sequence"""

    @classmethod
    def of(cls, problem: AttentionProblem, inputs: AttentionInputs) -> FlashinferPages:
        """Store K and V of a problem in pages."""
        cache = PagedCache.of(problem, inputs)
        assert isinstance(cache.k, torch.Tensor) and isinstance(cache.v, torch.Tensor)
        lengths = [problem.kv_len_of(sequence) for sequence in range(problem.batch_size)]
        counts = [-(-length // cache.page_size) for length in lengths]
        rows = [cache.page_table[sequence, :count] for sequence, count in enumerate(counts)]
        last = [(length - 1) % cache.page_size + 1 for length in lengths]
        return cls(
            cache,
            (cache.k, cache.v),
            starts_on_device(counts, problem.device),
            torch.cat(rows),
            torch.tensor(last, dtype=torch.int32, device=problem.device),
        )


def workspace(problem: AttentionProblem) -> torch.Tensor:
    """Allocate FlashInfer's scratch memory, zeroed as its first use requires."""
    return torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=problem.device)


def planned_in_ms(plan: Callable[[], object]) -> float:
    """Plan twice, and return the milliseconds of the second time: the first one compiles the kernel."""
    plan()
    started = time.perf_counter()
    plan()
    return (time.perf_counter() - started) * 1e3


def flashinfer_reasons(problem: AttentionProblem) -> list[str]:
    """Return why FlashInfer's kernels fa2 and fa3 cannot compute a problem here."""
    reasons = cuda_peer_reasons(problem, "flashinfer", "flashinfer")
    if problem.head_dim not in HEAD_DIMS:
        reasons.append(f"head_dim={problem.head_dim}: must be one of {', '.join(map(str, HEAD_DIMS))}")
    return reasons
