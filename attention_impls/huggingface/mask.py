"""From the mask of a Hugging Face model to a problem: which keys and queries count, and what they see.

A model's cache holds padding, on the left or on the right, and room for tokens to come. What no query sees
is left out, and the rest must be one of the masks that a problem can have; any other is an error.

Shape suffixes: B batch, Q queries of the model, R queries that count, K keys of the model, L keys that count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gqabench.attention_impls.parts.formulas.masks import visibility_mask
from gqabench.attention_impls.problem import AttentionProblem


class Unsupported(ValueError):
    """A call of a model that the chosen implementation cannot compute. The message says why."""


class InexpressibleMask(Unsupported):
    """A mask that no attention problem has. The message says why."""


@dataclass(frozen=True)
class VisiblePart:
    """What is left of a model's queries and keys once padding and unused room are removed."""

    keys: slice | torch.Tensor
    """The keys that count: a slice where they stand together in all sequences, else indices `[B, L]`."""
    rows: slice | torch.Tensor
    """The queries that count, the last of each sequence last: a slice, or indices `[B, R]`"""
    is_live: torch.Tensor | None
    """`[B, R]`, False for padding that fills up a shorter sequence; None where `rows` is a slice"""
    mask_fields: dict[str, Any]
    """`q_len`, `kv_len`, `kv_lens`, `causal` and `window` of the problem"""

    def select_keys(self, kv_BGKD: torch.Tensor) -> torch.Tensor:
        """Select `[B, G, L, D]`: a view where the keys are consecutive, else a copy."""
        if isinstance(self.keys, slice):
            return kv_BGKD[:, :, self.keys]
        return kv_BGKD.take_along_dim(self.keys[:, None, :, None], dim=2)

    def select_rows(self, q_BHQD: torch.Tensor) -> torch.Tensor:
        """Select the queries that count, `[B, H, R, D]`, contiguous."""
        if isinstance(self.rows, slice):
            return q_BHQD[:, :, self.rows].contiguous()
        return q_BHQD.take_along_dim(self.rows[:, None, :, None], dim=2)

    def restore_rows(self, output_BHRD: torch.Tensor, num_queries: int) -> torch.Tensor:
        """Put outputs back in a model's layout, `[B, Q, H, D]`; 0 for queries that are padding."""
        output_BRHD = output_BHRD.transpose(1, 2)
        batch_size, num_rows = output_BRHD.shape[:2]
        if num_rows == num_queries and isinstance(self.rows, slice):
            return output_BRHD.contiguous()
        restored_BQHD = output_BRHD.new_zeros(batch_size, num_queries, *output_BRHD.shape[2:])
        if isinstance(self.rows, slice):
            restored_BQHD[:, self.rows] = output_BRHD
            return restored_BQHD
        assert self.is_live is not None
        sequences_BR = torch.arange(batch_size, device=self.rows.device)[:, None].expand_as(self.rows)
        restored_BQHD[sequences_BR[self.is_live], self.rows[self.is_live]] = output_BRHD[self.is_live]
        return restored_BQHD


def visible_part(mask_B1QK: torch.Tensor) -> VisiblePart:
    """Return the part of a boolean mask that counts.

    `mask_B1QK` is True where a query sees a key. Raises `InexpressibleMask`.
    """
    if mask_B1QK.dtype != torch.bool or mask_B1QK.dim() != 4 or mask_B1QK.shape[1] != 1:
        raise InexpressibleMask(
            f"attention_mask of shape {list(mask_B1QK.shape)} and dtype {mask_B1QK.dtype}:"
            " must be boolean [batch_size, 1, num_queries, num_keys], the same for all heads"
        )
    mask_BQK = mask_B1QK[:, 0]
    used_BK = mask_BQK.any(dim=1)
    lengths = used_BK.sum(dim=-1).tolist()
    if min(lengths) == 0:
        raise InexpressibleMask(f"attention_mask: sequence {lengths.index(0)} has no token at all")
    keys = _keys(used_BK, lengths)
    part_BQL = mask_BQK[..., keys] if isinstance(keys, slice) else mask_BQK.take_along_dim(keys[:, None], 2)
    kv_lens = tuple(lengths) if len(set(lengths)) > 1 else None
    fields = {"kv_len": max(lengths), "kv_lens": kv_lens}
    num_queries = part_BQL.shape[1]
    for causal, (rows, is_live) in ((False, (slice(0, num_queries), None)), (True, _live_rows(part_BQL))):
        chosen_BRL = (
            part_BQL[:, rows] if isinstance(rows, slice) else part_BQL.take_along_dim(rows[..., None], 1)
        )
        if is_live is not None:
            chosen_BRL = chosen_BRL & is_live[..., None]
        found = fields | {
            "q_len": chosen_BRL.shape[1],
            "causal": causal,
            "window": _window(chosen_BRL, causal),
        }
        if found["q_len"] <= found["kv_len"] and _is_mask_of(found, chosen_BRL):
            return VisiblePart(keys, rows, is_live, found)
    raise InexpressibleMask(
        "attention_mask: must be causal or full, with or without a sliding window, over tokens in order;"
        " this one is none of them"
    )


def _keys(used_BK: torch.Tensor, lengths: list[int]) -> slice | torch.Tensor:
    first_B = used_BK.int().argmax(dim=-1)
    first = int(first_B.min())
    expected_BK = torch.arange(used_BK.shape[1], device=used_BK.device) - first
    lengths_B1 = torch.tensor(lengths, device=used_BK.device)[:, None]
    if bool(((expected_BK >= 0) & (expected_BK < lengths_B1)).eq(used_BK).all()):
        return slice(first, first + max(lengths))
    order_BK = used_BK.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return order_BK[:, : max(lengths)]


def _live_rows(part_BQL: torch.Tensor) -> tuple[slice | torch.Tensor, torch.Tensor | None]:
    """Return the queries that see a key which no query before them sees, and where they are real.

    Padding sees no key, or no new one.
    """
    num_queries, num_keys = part_BQL.shape[1:]
    keys_L = torch.arange(1, num_keys + 1, device=part_BQL.device)
    end_BQ = (part_BQL * keys_L).amax(dim=-1)
    before_BQ = torch.cat([end_BQ.new_zeros(len(end_BQ), 1), end_BQ.cummax(dim=-1).values[:, :-1]], dim=-1)
    live_BQ = end_BQ > before_BQ
    num_rows = int(live_BQ.sum(dim=-1).max())
    rows_Q = torch.arange(num_queries, device=part_BQL.device)
    if bool((live_BQ == (rows_Q >= num_queries - live_BQ.sum(dim=-1, keepdim=True))).all()):
        return slice(num_queries - num_rows, num_queries), None
    order_BQ = live_BQ.to(torch.int8).argsort(dim=-1, stable=True)  # padding first, tokens last, in order
    rows_BR = order_BQ[:, num_queries - num_rows :]
    return rows_BR, live_BQ.take_along_dim(rows_BR, dim=-1)


def _window(mask_BRL: torch.Tensor, causal: bool) -> int | None:
    """Return the length of the widest row, if some row does not see all keys up to its last; else None."""
    keys_L = torch.arange(1, mask_BRL.shape[-1] + 1, device=mask_BRL.device)
    width_BR = mask_BRL.sum(dim=-1)
    if not causal or bool((width_BR == (mask_BRL * keys_L).amax(dim=-1)).all()):
        return None
    return int(width_BR.max())


def _is_mask_of(mask_fields: dict[str, Any], mask_BRL: torch.Tensor) -> bool:
    problem = AttentionProblem(
        batch_size=len(mask_BRL),
        num_q_heads=1,
        num_kv_heads=1,
        head_dim=1,
        dtype="float32",
        device=str(mask_BRL.device),
        **mask_fields,
    )
    expected_B1RL = visibility_mask(problem)
    if expected_B1RL is None:
        return bool(mask_BRL.all())
    return bool((expected_B1RL[:, 0] == mask_BRL).all())
