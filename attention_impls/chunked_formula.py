"""The attention formula itself, in bounded memory and in a chosen precision.

In float64 it is the reference. Rounded to a dtype wherever the textbook code would store a tensor of that
dtype, it shows what error that dtype costs.

Shape suffixes: B batch, H query heads, R query rows, N rows of one key/value head (R of each query head in
its group), K keys, D head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attention_impls.contract import AttentionInputs
from attention_impls.masks import key_ranges
from attention_impls.problem import AttentionProblem

MAX_CHUNK_ELEMENTS = 2**23
"""Elements of the largest temporary: 64 MiB in float64. About five of them live at a time."""


@dataclass(frozen=True)
class Precision:
    """In which dtype to compute, and to which dtype to round what textbook code would store."""

    compute: torch.dtype
    store: torch.dtype

    def stored(self, values: torch.Tensor) -> torch.Tensor:
        """The values as they would be read back after being stored."""
        return values if self.store == self.compute else values.to(self.store).to(self.compute)


EXACT = Precision(compute=torch.float64, store=torch.float64)


def chunked_formula(
    problem: AttentionProblem,
    inputs: AttentionInputs,
    precision: Precision,
    query_rows: torch.Tensor | None = None,
) -> torch.Tensor:
    """`softmax(mask(cap(q k^T scale))) v`, `[batch_size, num_q_heads, q_len or num_rows, head_dim]`.

    In `precision.compute`. Temporaries stay below 512 MiB whatever the problem.
    `query_rows` selects queries by index (int64, `[num_rows]`); None means all.
    """
    q_BHRD = inputs.q if query_rows is None else inputs.q.index_select(2, query_rows)
    first_BR, end_BR = key_ranges(problem, query_rows)
    output_BHRD = torch.empty(q_BHRD.shape, dtype=precision.compute, device=q_BHRD.device)
    for b in range(problem.batch_size):
        first_N = first_BR[b].repeat(problem.group_size)
        end_N = end_BR[b].repeat(problem.group_size)
        for kv_head in range(problem.num_kv_heads):
            group = slice(kv_head * problem.group_size, (kv_head + 1) * problem.group_size)
            k_KD, v_KD = inputs.k[b, kv_head], inputs.v[b, kv_head]
            q_ND = q_BHRD[b, group].flatten(0, 1)
            output_ND = _attend(problem, precision, q_ND, k_KD, v_KD, first_N, end_N)
            output_BHRD[b, group] = output_ND.view_as(output_BHRD[b, group])
    return output_BHRD


def _attend(
    problem: AttentionProblem,
    precision: Precision,
    q_ND: torch.Tensor,
    k_KD: torch.Tensor,
    v_KD: torch.Tensor,
    first_N: torch.Tensor,
    end_N: torch.Tensor,
) -> torch.Tensor:
    """Rows of one key/value head, as many at a time as memory allows."""
    rows_per_chunk = max(MAX_CHUNK_ELEMENTS // problem.kv_len, 1)
    output_ND = torch.empty(q_ND.shape, dtype=precision.compute, device=q_ND.device)
    for start in range(0, len(q_ND), rows_per_chunk):
        rows = slice(start, start + rows_per_chunk)
        first_N1, end_N1 = first_N[rows, None], end_N[rows, None]
        lowest, highest = int(first_N1.min()), int(end_N1.max())
        seen = slice(lowest, max(lowest, highest))  # keys that some row of the chunk sees
        logits_NK = _logits(problem, precision, q_ND[rows].to(precision.compute), k_KD[seen])
        keys_K = torch.arange(seen.start, seen.stop, device=q_ND.device)
        hidden_NK = (keys_K < first_N1) | (keys_K >= end_N1)
        probs_NK = torch.softmax(logits_NK.masked_fill_(hidden_NK, float("-inf")), dim=-1)
        probs_NK.masked_fill_(end_N1 <= first_N1, 0)  # a query that sees no key: its softmax is NaN
        output_ND[rows] = _weighted_sum(precision, precision.stored(probs_NK), v_KD[seen])
    return output_ND


def _logits(
    problem: AttentionProblem, precision: Precision, q_ND: torch.Tensor, k_KD: torch.Tensor
) -> torch.Tensor:
    logits_NK = torch.empty(len(q_ND), len(k_KD), dtype=precision.compute, device=q_ND.device)
    for chunk in _key_chunks(k_KD):
        products = precision.stored(q_ND @ k_KD[chunk].to(precision.compute).mT)
        logits_NK[:, chunk] = precision.stored(products * problem.scale)
    if problem.logits_soft_cap is None:
        return logits_NK
    cap = problem.logits_soft_cap
    return precision.stored(cap * precision.stored(torch.tanh(precision.stored(logits_NK / cap))))


def _weighted_sum(precision: Precision, probs_NK: torch.Tensor, v_KD: torch.Tensor) -> torch.Tensor:
    output_ND = torch.zeros(len(probs_NK), v_KD.shape[1], dtype=precision.compute, device=probs_NK.device)
    for chunk in _key_chunks(v_KD):
        output_ND += probs_NK[:, chunk] @ v_KD[chunk].to(precision.compute)
    return precision.stored(output_ND)


def _key_chunks(kv_KD: torch.Tensor) -> list[slice]:
    """Slices of the keys, so that one slice of K or V is no larger than a chunk."""
    num_keys, head_dim = kv_KD.shape
    step = max(MAX_CHUNK_ELEMENTS // head_dim, 1)
    return [slice(start, min(start + step, num_keys)) for start in range(0, num_keys, step)]
