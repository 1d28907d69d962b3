"""The plain formula over some keys at a time, with a running softmax: no temporary grows with the context.

Milakov and Gimelshein 2018 (arXiv 1805.02867), as FlashAttention uses it (Dao et al. 2022, arXiv 2205.14135,
section 3.1), in PyTorch's own operators.

Shape suffixes: B batch, G key/value heads, S group_size, H query heads (G * S), Q q_len, N rows (S * Q),
K keys of a block, D head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from gqabench.attention_impls.parts.formulas.masks import AdditiveMask, additive_mask
from gqabench.attention_impls.problem import AttentionProblem

MIN_BLOCK_LENGTH = 512
"""Keys of a block, at least: fewer make the host's work for each block cost more than the block."""


class ReadableCache(Protocol):
    """A cache that gives back some tokens of K and V, `[B, G, K, D]` each, in the problem's dtype."""

    def read(self, keys: slice) -> tuple[torch.Tensor, torch.Tensor]: ...


@dataclass(frozen=True)
class KeyBlock:
    """Consecutive keys of which some query sees some."""

    keys: slice
    bias: torch.Tensor | None
    """`[B, 1, 1, Q, K]`: 0 or -inf; None where every query sees every key of the block"""


@dataclass(frozen=True)
class BlockwiseFormula:
    """Attention over a cache that is read block by block. Sums are in float32."""

    problem: AttentionProblem
    blocks: tuple[KeyBlock, ...]
    mask: AdditiveMask | None

    @classmethod
    def for_problem(cls, problem: AttentionProblem, page_size: int = 1) -> BlockwiseFormula:
        """Divide the keys into blocks of whole pages, leaving out blocks that no query sees."""
        mask = additive_mask(problem)
        length = page_size * -(-MIN_BLOCK_LENGTH // page_size)
        blocks = []
        for start in range(0, problem.kv_len, length):
            keys = slice(start, min(start + length, problem.kv_len))
            bias = None if mask is None else mask.bias[..., keys]
            if bias is not None and bool((bias == 0).all()):
                bias = None
            if bias is None or bool((bias == 0).any()):
                blocks.append(KeyBlock(keys, None if bias is None else bias[:, :, None]))
        return cls(problem, tuple(blocks), mask)

    def __call__(self, q_BHQD: torch.Tensor, cache: ReadableCache) -> torch.Tensor:
        problem = self.problem
        shape = (problem.batch_size, problem.num_kv_heads, problem.group_size * problem.q_len)
        q_BGND = q_BHQD.reshape(*shape, problem.head_dim)
        highest_BGN1 = torch.full((*shape, 1), float("-inf"), device=q_BHQD.device)
        total_BGN1 = torch.zeros((*shape, 1), device=q_BHQD.device)
        output_BGND = torch.zeros((*shape, problem.head_dim), device=q_BHQD.device)
        for block in self.blocks:
            k_BGKD, v_BGKD = cache.read(block.keys)
            logits_BGNK = self._logits(q_BGND, k_BGKD, block)
            # What is subtracted does not change the result, and has no gradient.
            higher_BGN1 = torch.maximum(highest_BGN1, logits_BGNK.detach().amax(-1, keepdim=True))
            # A row that has seen no key yet has -inf, from which -inf cannot be subtracted.
            base_BGN1 = higher_BGN1.masked_fill(higher_BGN1 == float("-inf"), 0)
            weights_BGNK = logits_BGNK.sub_(base_BGN1).exp_()
            rescale_BGN1 = (highest_BGN1 - base_BGN1).exp()
            total_BGN1 = total_BGN1 * rescale_BGN1 + weights_BGNK.sum(-1, keepdim=True)
            output_BGND = output_BGND * rescale_BGN1 + weights_BGNK.to(v_BGKD.dtype) @ v_BGKD
            highest_BGN1 = higher_BGN1
        output_BHQD = (output_BGND / total_BGN1).to(q_BHQD.dtype).view(q_BHQD.shape)
        return output_BHQD if self.mask is None else self.mask.zero_dead_rows(output_BHQD)

    def _logits(self, q_BGND: torch.Tensor, k_BGKD: torch.Tensor, block: KeyBlock) -> torch.Tensor:
        """Return the logits of a block, `[B, G, N, K]`, float32."""
        logits_BGNK: torch.Tensor = (q_BGND @ k_BGKD.mT).float() * self.problem.scale
        if (cap := self.problem.logits_soft_cap) is not None:
            logits_BGNK = cap * torch.tanh(logits_BGNK / cap)
        if block.bias is not None:
            grouped = (self.problem.group_size, self.problem.q_len)
            logits_BGNK = (logits_BGNK.unflatten(2, grouped) + block.bias).flatten(2, 3)
        return logits_BGNK
