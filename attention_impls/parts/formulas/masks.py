"""Which keys a query sees, as `AttentionProblem` states it: as ranges of keys and as masks.

Whatever the mask, the keys that one query sees are a range without gaps. Everything here follows from
`key_ranges`.

Shape suffixes: B batch (or 1, where all sequences agree), R query rows, Q q_len, K kv_len.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import torch

from gqabench.attention_impls.dtypes import torch_dtype
from gqabench.attention_impls.problem import AttentionProblem


class MaskKind(Enum):
    """How much a kernel has to be told about the mask of a problem."""

    NONE = auto()
    """Every query sees every key: a decode step, for one, whether it is called causal or not."""
    SQUARE_CAUSAL = auto()
    """As many queries as keys, and key `j <= i`. Only here do upper-left aligned kernels, such as
    PyTorch's `is_causal`, and bottom-right aligned ones agree."""
    GENERAL = auto()
    """Anything else: the mask has to be given."""


def mask_kind(problem: AttentionProblem) -> MaskKind:
    """Return the kind of a problem's mask."""
    if problem.is_ragged or (problem.window is not None and problem.window < problem.kv_len):
        return MaskKind.GENERAL
    looks_back_only = problem.causal or problem.window is not None
    if not looks_back_only or problem.q_len == 1:
        return MaskKind.NONE
    return MaskKind.SQUARE_CAUSAL if problem.q_len == problem.kv_len else MaskKind.GENERAL


def key_ranges(
    problem: AttentionProblem, query_rows: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `(first_BR, end_BR)`, int64: a query sees key `j` if `first <= j < end`, none if `end <= first`.

    `query_rows` selects queries by index (int64, `[num_rows]`); None means all.
    """
    lengths_B1 = torch.tensor(
        [problem.kv_len_of(b) for b in range(problem.batch_size)], device=problem.device
    )[:, None]
    rows_R = torch.arange(problem.q_len, device=problem.device) if query_rows is None else query_rows
    positions_BR = lengths_B1 - problem.q_len + rows_R
    if problem.causal or problem.window is not None:
        end_BR = (positions_BR + 1).clamp(min=0)
    else:
        end_BR = lengths_B1.expand_as(positions_BR)
    if problem.window is not None:
        first_BR = (positions_BR - problem.window + 1).clamp(min=0)
    else:
        first_BR = torch.zeros_like(positions_BR)
    return first_BR, end_BR


def visibility_mask(problem: AttentionProblem) -> torch.Tensor | None:
    """Return the boolean mask `[batch_size or 1, 1, q_len, kv_len]`, True where a query sees a key.

    None means that every query sees every key. The first size is 1 where all sequences have the same mask.
    """
    if mask_kind(problem) is MaskKind.NONE:
        return None
    first_BQ, end_BQ = key_ranges(problem)
    if len(set(problem.kv_lens or ())) <= 1:
        first_BQ, end_BQ = first_BQ[:1], end_BQ[:1]
    keys_K = torch.arange(problem.kv_len, device=problem.device)
    mask_BQK = (keys_K >= first_BQ[..., None]) & (keys_K < end_BQ[..., None])
    return mask_BQK[:, None]


@dataclass(frozen=True)
class AdditiveMask:
    """A mask in the form that is added to logits, finite in every row that sees a key."""

    bias: torch.Tensor
    """`[B, 1, Q, K]` in the problem's dtype: 0 where a query sees a key, else -inf. Rows that see no key are
    all 0, since a row of -inf makes the softmax NaN in some kernels."""
    dead_rows: torch.Tensor | None
    """`[B, 1, Q, 1]`, True for queries that see no key; None where there are none."""

    def zero_dead_rows(self, output_BHQD: torch.Tensor) -> torch.Tensor:
        """Return the output, with 0 for queries that see no key."""
        return output_BHQD if self.dead_rows is None else output_BHQD.masked_fill(self.dead_rows, 0)


def additive_mask(problem: AttentionProblem) -> AdditiveMask | None:
    """Build the additive mask of a problem; None where every query sees every key."""
    visible_B1QK = visibility_mask(problem)
    if visible_B1QK is None:
        return None
    dead_rows_B1Q1 = ~visible_B1QK.any(dim=-1, keepdim=True)
    bias_B1QK = torch.zeros(visible_B1QK.shape, dtype=torch_dtype(problem), device=problem.device)
    bias_B1QK.masked_fill_(~(visible_B1QK | dead_rows_B1Q1), float("-inf"))
    return AdditiveMask(bias_B1QK, dead_rows_B1Q1 if bool(dead_rows_B1Q1.any()) else None)
