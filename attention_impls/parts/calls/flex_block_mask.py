"""The block mask of a problem for FlexAttention: which blocks of keys each block of queries visits.

PyTorch's `create_block_mask` evaluates the whole `[q_len, kv_len]` mask first: gigabytes for a long prefill.
Since the keys that a query sees are a range, the blocks follow from the ranges of their rows.

Shape suffixes: B batch, I query blocks, J key blocks, R rows of a query block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import pad

from gqabench.attention_impls.parts.formulas.masks import MaskKind, key_ranges, mask_kind
from gqabench.attention_impls.problem import AttentionProblem

BLOCK_SIZE = 128
"""Queries and keys of one block: FlexAttention's default."""

MaskMod = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def flex_block_mask(problem: AttentionProblem) -> BlockMask | None:
    """Build the block mask on the problem's device; None where every query sees every key."""
    if mask_kind(problem) is MaskKind.NONE:
        return None
    visited_B1IJ, full_B1IJ = _blocks(problem)
    return BlockMask.from_kv_blocks(
        *_counts_and_indices(visited_B1IJ & ~full_B1IJ),
        *_counts_and_indices(full_B1IJ),
        BLOCK_SIZE=BLOCK_SIZE,
        mask_mod=_mask_mod(problem),
        seq_lengths=(problem.q_len, problem.kv_len),
    )


def _blocks(problem: AttentionProblem) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the blocks in which some query sees some key, and those in which each sees all: `[B, 1, I, J]`.

    Both are boolean. A block of queries or keys that the end of the sequence cuts short is not full, as in
    PyTorch.
    """
    first_BIR, end_BIR = (_rows_by_block(rows, problem) for rows in key_ranges(problem))
    starts_J = torch.arange(0, problem.kv_len, BLOCK_SIZE, device=problem.device)
    sees_some = end_BIR > first_BIR
    lowest_BI1 = first_BIR.where(sees_some, problem.kv_len).amin(-1, keepdim=True)
    highest_BI1 = end_BIR.where(sees_some, 0).amax(-1, keepdim=True)
    visited_BIJ = (starts_J + BLOCK_SIZE > lowest_BI1) & (starts_J < highest_BI1)
    latest_first_BI1 = first_BIR.amax(-1, keepdim=True)
    earliest_end_BI1 = end_BIR.amin(-1, keepdim=True)
    full_BIJ = (starts_J >= latest_first_BI1) & (starts_J + BLOCK_SIZE <= earliest_end_BI1)
    return visited_BIJ[:, None], full_BIJ[:, None]


def _rows_by_block(rows_BQ: torch.Tensor, problem: AttentionProblem) -> torch.Tensor:
    """Pad and reshape to `[batch_size, num_blocks, BLOCK_SIZE]`; rows past the end see no key."""
    padded = pad(rows_BQ, (0, -problem.q_len % BLOCK_SIZE))
    return padded.view(problem.batch_size, -1, BLOCK_SIZE)


def _counts_and_indices(blocks_B1IJ: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return FlexAttention's form: the key blocks of each query block, as a count and indices."""
    counts_B1I = blocks_B1IJ.sum(dim=-1, dtype=torch.int32)
    order_B1IJ = blocks_B1IJ.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return counts_B1I, order_B1IJ.to(torch.int32)


def _mask_mod(problem: AttentionProblem) -> MaskMod:
    """Return `AttentionProblem`'s definition of what a query sees, in FlexAttention's form."""
    lengths_B = torch.tensor([problem.kv_len_of(b) for b in range(problem.batch_size)], device=problem.device)
    looks_back_only = problem.causal or problem.window is not None

    def mask_mod(b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        length = lengths_B[b] if problem.is_ragged else problem.kv_len
        position = length - problem.q_len + i
        visible = j < length
        if looks_back_only:
            visible = visible & (j <= position)
        if problem.window is not None:
            visible = visible & (j > position - problem.window)
        return visible

    return mask_mod
