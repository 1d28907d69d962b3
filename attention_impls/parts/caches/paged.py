"""A paged cache: one pool of pages for all sequences, and a table of the pages of each sequence.

Serving engines keep it like this (Kwon et al. 2023, arXiv 2309.06180, section 4.2). Pages are assigned in a
shuffled order, as in an engine that has run for a while: consecutive pages of a sequence are not adjacent in
memory.

Shape suffixes: B batch, G key/value heads, K tokens, D head_dim, P pages of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gqabench.attention_impls.contract import AttentionInputs
from gqabench.attention_impls.dtypes import torch_dtype
from gqabench.attention_impls.parts.caches.contiguous import ALL_KEYS
from gqabench.attention_impls.parts.caches.quantisation import QuantisedTensor, quantise
from gqabench.attention_impls.problem import AttentionProblem

DEFAULT_PAGE_SIZE = 16
"""Tokens of a page where the problem leaves it open: the default of vLLM (`CacheConfig.block_size`)."""

_SHUFFLE_SEED = 0


@dataclass(frozen=True)
class PagedCache:
    """A sequence has as many pages as its tokens need. The last one may be partly filled."""

    k: torch.Tensor | QuantisedTensor
    """Pool `[num_pages, page_size, G, D]`; scales, where there are some, `[num_pages, page_size, G]`"""
    v: torch.Tensor | QuantisedTensor
    page_table: torch.Tensor
    """`[B, P]`, int32: the pages of each sequence; 0, to be masked when read, beyond its last one"""
    kv_len: int
    dtype: torch.dtype
    """Of what is read"""

    @classmethod
    def of(cls, problem: AttentionProblem, inputs: AttentionInputs) -> PagedCache:
        """Store K and V of a problem in pages, quantised if it has a `kv_dtype`."""
        page_size = page_size_of(problem)
        lengths = [problem.kv_len_of(sequence) for sequence in range(problem.batch_size)]
        table_BP = shuffled_page_table(lengths, page_size, problem.kv_len).to(problem.device)

        def pool(kv_BGKD: torch.Tensor) -> torch.Tensor | QuantisedTensor:
            if problem.kv_dtype is None:
                return _in_pages(kv_BGKD, lengths, table_BP, page_size)
            quantised = quantise(kv_BGKD, problem.kv_dtype)
            parts = (quantised.values, quantised.scales)
            return QuantisedTensor(*(_in_pages(part, lengths, table_BP, page_size) for part in parts))

        return cls(pool(inputs.k), pool(inputs.v), table_BP, problem.kv_len, torch_dtype(problem))

    @property
    def nbytes(self) -> int:
        """Bytes of all pages, filled or not, with their scales; the table is not counted."""
        return self.k.nbytes + self.v.nbytes

    @property
    def page_size(self) -> int:
        pool = self.k.values if isinstance(self.k, QuantisedTensor) else self.k
        return int(pool.shape[1])

    def read(self, keys: slice = ALL_KEYS) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy some tokens to `[B, G, K, D]`, in `dtype`. `keys` must start at the start of a page."""
        start, stop, _ = keys.indices(self.kv_len)
        assert start % self.page_size == 0
        pages_BP = self.page_table[:, start // self.page_size : -(-stop // self.page_size)]
        return self._gathered(self.k, pages_BP, stop - start), self._gathered(self.v, pages_BP, stop - start)

    def _gathered(
        self, kv: torch.Tensor | QuantisedTensor, pages_BP: torch.Tensor, num_tokens: int
    ) -> torch.Tensor:
        if isinstance(kv, QuantisedTensor):
            values, scales = (_gather(part, pages_BP, num_tokens) for part in (kv.values, kv.scales))
            return QuantisedTensor(values, scales).dequantise(self.dtype)
        return _gather(kv, pages_BP, num_tokens)


def page_size_of(problem: AttentionProblem) -> int:
    """Return the problem's page size, or the default where it leaves the layout open."""
    return DEFAULT_PAGE_SIZE if problem.page_size is None else problem.page_size


def shuffled_page_table(lengths: list[int], page_size: int, kv_len: int) -> torch.Tensor:
    """Assign pages 0, 1, ... in a seeded random order, each used once: `[B, P]`, int32, on the CPU.

    P is large enough for `kv_len` tokens.
    """
    num_pages = [-(-length // page_size) for length in lengths]
    generator = torch.Generator().manual_seed(_SHUFFLE_SEED)
    order = torch.randperm(sum(num_pages), generator=generator).to(torch.int32)
    table_BP = torch.zeros(len(lengths), -(-kv_len // page_size), dtype=torch.int32)
    for row_P, pages in zip(table_BP, order.split(num_pages), strict=True):
        row_P[: len(pages)] = pages
    return table_BP


def _in_pages(
    kv_BGKx: torch.Tensor, lengths: list[int], table_BP: torch.Tensor, page_size: int
) -> torch.Tensor:
    """Store `[B, G, K, ...]` in a pool `[num_pages, page_size, G, ...]`, zero where there is no token."""
    num_pages = sum(-(-length // page_size) for length in lengths)
    _, num_kv_heads, _, *rest = kv_BGKx.shape
    pool = kv_BGKx.new_zeros(num_pages * page_size, num_kv_heads, *rest)
    for kv_GKx, pages_P, length in zip(kv_BGKx, table_BP, lengths, strict=True):
        tokens_K = torch.arange(length, device=kv_BGKx.device)
        slots_K = pages_P[tokens_K // page_size] * page_size + tokens_K % page_size
        # A dtype of one byte is moved as bytes: PyTorch cannot index float8.
        _indexable(pool)[slots_K] = _indexable(kv_GKx[:, :length].transpose(0, 1))
    return pool.view(num_pages, page_size, *pool.shape[1:])


def _gather(pool: torch.Tensor, pages_BP: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Copy some pages of each sequence to `[B, G, num_tokens, ...]`."""
    pages = _indexable(pool).index_select(0, pages_BP.flatten()).view(pool.dtype)
    tokens_BKGx: torch.Tensor = pages.unflatten(0, tuple(pages_BP.shape)).flatten(1, 2)
    return tokens_BKGx[:, :num_tokens].transpose(1, 2)


def _indexable(x: torch.Tensor) -> torch.Tensor:
    return x.view(torch.int8) if x.element_size() == 1 else x
