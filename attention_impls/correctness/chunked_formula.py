"""The attention formula itself, in bounded memory and in a chosen precision.

In float64 it is the reference. Rounded to a dtype wherever the textbook code would store a tensor of that
dtype, it shows what error that dtype costs.

With a `kv_dtype`, K and V are those that a quantised cache gives back: what quantising changed is no error of
the implementation that reads them.

Shape suffixes: B batch, H query heads, G key/value heads, R query rows, N rows of one key/value head (R of
each query head in its group), K keys, D head_dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from gqabench.attention_impls.contract import AttentionInputs
from gqabench.attention_impls.parts.caches.quantisation import quantise
from gqabench.attention_impls.parts.formulas.masks import key_ranges
from gqabench.attention_impls.problem import AttentionProblem

MAX_CHUNK_ELEMENTS = 2**23
"""Elements of the largest temporary: 64 MiB in float64. About five of them live at a time."""


@dataclass(frozen=True)
class Precision:
    """In which dtype to compute, and to which dtype to round what textbook code would store."""

    compute: torch.dtype
    store: torch.dtype

    def stored(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values as they would be read back after being stored."""
        return values if self.store == self.compute else values.to(self.store).to(self.compute)


EXACT = Precision(compute=torch.float64, store=torch.float64)


@dataclass(frozen=True)
class FormulaChunk:
    """Some query rows of one key/value head, up to the probabilities."""

    precision: Precision
    sequence: int
    kv_head: int
    rows: slice
    """Which of the N rows of the head"""
    q: torch.Tensor
    """`[N, D]`"""
    all_k: torch.Tensor
    """`[kv_len, D]`: all keys of the head, as the cache holds them, seen or not"""
    all_v: torch.Tensor
    """`[kv_len, D]`: their values"""
    seen: slice
    """Which K of them some row of the chunk sees"""
    logits: torch.Tensor
    """`[N, K]`: -inf where a query does not see a key"""
    probs: torch.Tensor
    """`[N, K]`: stored; 0 in rows that see no key"""

    @property
    def k(self) -> torch.Tensor:
        """`[K, D]`: the keys that some row sees."""
        return self.all_k[self.seen]

    @property
    def v(self) -> torch.Tensor:
        """`[K, D]`: their values."""
        return self.all_v[self.seen]

    @property
    def place(self) -> tuple[int, int, slice]:
        """Where its rows stand in a tensor `[B, G, N, ...]`."""
        return self.sequence, self.kv_head, self.rows

    def output(self) -> torch.Tensor:
        """Return the output rows `[N, D]`, rounded as they would be stored."""
        return self.precision.stored(self.weighted_sum(self.probs))

    def weighted_sum(self, weights_NK: torch.Tensor) -> torch.Tensor:
        """Return the sums of the values under the given weights, `[N, D]`."""
        shape = (len(weights_NK), self.v.shape[1])
        output_ND = torch.zeros(shape, dtype=self.precision.compute, device=weights_NK.device)
        for chunk in key_chunks(self.v):
            output_ND += weights_NK[:, chunk] @ self.v[chunk].to(self.precision.compute)
        return output_ND


def chunked_formula(
    problem: AttentionProblem,
    inputs: AttentionInputs,
    precision: Precision,
    query_rows: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `softmax(mask(cap(q k^T scale))) v`, `[batch_size, num_q_heads, q_len or num_rows, head_dim]`.

    In `precision.compute`. Temporaries stay below 512 MiB for any problem; beside them, one head of a
    quantised cache is held in float32. `query_rows` selects queries by index (int64, `[num_rows]`); None
    means all.
    """
    num_rows = problem.q_len if query_rows is None else len(query_rows)
    shape = grouped_shape(problem, num_rows)
    output_BGND = torch.empty(*shape, problem.head_dim, dtype=precision.compute, device=inputs.q.device)
    for chunk in formula_chunks(problem, inputs, precision, query_rows):
        output_BGND[chunk.place] = chunk.output()
    return ungrouped(output_BGND, num_rows)


def grouped_shape(problem: AttentionProblem, num_rows: int) -> tuple[int, int, int]:
    """Return the sizes `[B, G, N]`: one entry for each query row of each query head."""
    return problem.batch_size, problem.num_kv_heads, problem.group_size * num_rows


def ungrouped(values_BGN: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Reshape `[B, G, N, ...]` to `[B, H, R, ...]`."""
    batch_size, num_kv_heads = values_BGN.shape[:2]
    return values_BGN.reshape(
        batch_size, num_kv_heads * values_BGN.shape[2] // num_rows, num_rows, *values_BGN.shape[3:]
    )


def formula_chunks(
    problem: AttentionProblem,
    inputs: AttentionInputs,
    precision: Precision,
    query_rows: torch.Tensor | None = None,
) -> Iterator[FormulaChunk]:
    """Yield all query rows in chunks that fit in memory."""
    q_BHRD = inputs.q if query_rows is None else inputs.q.index_select(2, query_rows)
    first_BR, end_BR = key_ranges(problem, query_rows)
    rows_per_chunk = max(MAX_CHUNK_ELEMENTS // problem.kv_len, 1)
    for sequence in range(problem.batch_size):
        first_N1 = first_BR[sequence].repeat(problem.group_size)[:, None]
        end_N1 = end_BR[sequence].repeat(problem.group_size)[:, None]
        for kv_head in range(problem.num_kv_heads):
            group = slice(kv_head * problem.group_size, (kv_head + 1) * problem.group_size)
            q_ND = q_BHRD[sequence, group].flatten(0, 1)
            k_KD, v_KD = (_held(problem, precision, x[sequence, kv_head]) for x in (inputs.k, inputs.v))
            for start in range(0, len(q_ND), rows_per_chunk):
                place = sequence, kv_head, slice(start, start + rows_per_chunk)
                ranges = first_N1[place[2]], end_N1[place[2]]
                yield _chunk(problem, precision, place, (q_ND[place[2]], k_KD, v_KD), ranges)


def _held(problem: AttentionProblem, precision: Precision, kv_KD: torch.Tensor) -> torch.Tensor:
    """Return keys or values as they enter the formula: textbook code stores what it dequantises."""
    held_KD = read_back(kv_KD, problem.kv_dtype)
    is_stored = problem.kv_dtype is not None and precision.store != precision.compute
    return held_KD.to(precision.store) if is_stored else held_KD


def read_back(kv_KD: torch.Tensor, kv_dtype: str | None) -> torch.Tensor:
    """Return keys or values as the cache returns them: unchanged, or through `kv_dtype`, in float32."""
    if kv_dtype is None:
        return kv_KD
    held_KD = torch.empty(kv_KD.shape, device=kv_KD.device)
    for chunk in key_chunks(kv_KD):
        held_KD[chunk] = quantise(kv_KD[chunk], kv_dtype).dequantise(torch.float32)
    return held_KD


def _chunk(
    problem: AttentionProblem,
    precision: Precision,
    place: tuple[int, int, slice],
    qkv: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ranges: tuple[torch.Tensor, torch.Tensor],
) -> FormulaChunk:
    q_ND, k_KD, v_KD = qkv
    first_N1, end_N1 = ranges
    lowest, highest = int(first_N1.min()), int(end_N1.max())
    seen = slice(lowest, max(lowest, highest))  # keys that some row of the chunk sees
    q_ND = q_ND.to(precision.compute)
    logits_NK = _logits(problem, precision, q_ND, k_KD[seen])
    keys_K = torch.arange(seen.start, seen.stop, device=q_ND.device)
    logits_NK.masked_fill_((keys_K < first_N1) | (keys_K >= end_N1), float("-inf"))
    probs_NK = torch.softmax(logits_NK, dim=-1)
    probs_NK.masked_fill_(end_N1 <= first_N1, 0)  # a query that sees no key: its softmax is NaN
    probs_NK = precision.stored(probs_NK)
    return FormulaChunk(precision, *place, q_ND, k_KD, v_KD, seen, logits_NK, probs_NK)


def _logits(
    problem: AttentionProblem, precision: Precision, q_ND: torch.Tensor, k_KD: torch.Tensor
) -> torch.Tensor:
    logits_NK = torch.empty(len(q_ND), len(k_KD), dtype=precision.compute, device=q_ND.device)
    for chunk in key_chunks(k_KD):
        products = precision.stored(q_ND @ k_KD[chunk].to(precision.compute).mT)
        logits_NK[:, chunk] = precision.stored(products * problem.scale)
    return capped(problem, precision, logits_NK)


def capped(problem: AttentionProblem, precision: Precision, logits: torch.Tensor) -> torch.Tensor:
    """Apply the problem's soft cap to the logits, if it has one."""
    if problem.logits_soft_cap is None:
        return logits
    cap = problem.logits_soft_cap
    return precision.stored(cap * precision.stored(torch.tanh(precision.stored(logits / cap))))


def key_chunks(kv_KD: torch.Tensor) -> list[slice]:
    """Divide the keys into slices, so that one slice of K or V is no larger than a chunk."""
    num_keys, head_dim = kv_KD.shape
    step = max(MAX_CHUNK_ELEMENTS // head_dim, 1)
    return [slice(start, min(start + step, num_keys)) for start in range(0, num_keys, step)]
