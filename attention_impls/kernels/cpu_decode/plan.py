"""How the work of a call is divided among threads, what has to be merged, and how much memory that needs.

The division depends only on the problem and the number of threads, never on which thread is faster. So the
same sums are made in the same order, and outputs are the same from run to run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from gqabench.attention_impls.problem import AttentionProblem

MAX_ROWS = 64
"""Query rows of one chunk (`MAX_TILES` of kernel.cpp): queries and sums stay in the second-level cache."""
STRIP = 16
LANES = 8
"""As in vectors.h and tile.h."""
BLOCK_BYTES = 12 * 2**10
"""Bytes of a block's keys, and of its values: both fit in a first-level cache of 32 KiB, with some room."""
BLOCK_BYTES_OF_ONE_ROW = 4 * 2**10
"""With one row there is little to compute, so smaller blocks keep the bursts of fetches short."""
CHUNKS_PER_THREAD = 8
"""More chunks balance threads of different speed; fewer leave less to merge."""
MIN_CHUNK_KEYS = 128
"""Shorter chunks cost more to start and merge than they gain."""


class Chunk(NamedTuple):
    """Some query rows of one key/value head against a range of keys. Fields as in kernel.cpp."""

    sequence: int
    head: int
    first_row: int
    num_rows: int
    first_key: int
    end_key: int
    slot: int
    """The slot of its partial result; -1 for a chunk that has all keys of its rows"""


class Merge(NamedTuple):
    """The chunks whose partial results make one. Fields as in kernel.cpp."""

    sequence: int
    head: int
    first_row: int
    num_rows: int
    first_slot: int
    num_slots: int


@dataclass(frozen=True)
class Plan:
    """All work of a call."""

    chunks: list[Chunk]
    merges: list[Merge]
    block_keys: int
    max_rows: int
    """Rows of the largest chunk, rounded up to whole tiles"""
    workspace_floats: int

    @classmethod
    def of(cls, problem: AttentionProblem, num_threads: int) -> Plan:
        """Divide a problem among some threads."""
        pieces = [
            (sequence, first_row, num_rows, *_visible_keys(problem, sequence, first_row, num_rows))
            for sequence in range(problem.batch_size)
            for first_row, num_rows in _row_ranges(problem)
        ]
        total = problem.num_kv_heads * sum(rows * (end - first) for _, _, rows, first, end in pieces)
        share = math.ceil(total / (CHUNKS_PER_THREAD * num_threads))
        chunks: list[Chunk] = []
        merges: list[Merge] = []
        num_slots = 0
        for sequence, first_row, num_rows, first, end in pieces:
            cuts = _cuts(first, end, max(math.ceil(share / num_rows), MIN_CHUNK_KEYS))
            for head in range(problem.num_kv_heads):
                place = (sequence, head, first_row, num_rows)
                if len(cuts) == 1:
                    chunks.append(Chunk(*place, *cuts[0], -1))
                    continue
                chunks += [Chunk(*place, *cut, num_slots + i) for i, cut in enumerate(cuts)]
                merges.append(Merge(*place, num_slots, len(cuts)))
                num_slots += len(cuts)
        # The longest first: the last chunks are short, so that threads finish together.
        chunks.sort(key=lambda chunk: (chunk.first_key - chunk.end_key) * chunk.num_rows)
        max_rows = max(_padded(chunk.num_rows, 4) for chunk in chunks)
        width = _padded(problem.head_dim, STRIP)
        one_row = problem.group_size * problem.q_len == 1
        block_bytes = BLOCK_BYTES_OF_ONE_ROW if one_row else BLOCK_BYTES
        block_keys = max(block_bytes // (problem.head_dim * problem.kv_itemsize), LANES)
        scratch = 2 * max_rows * width + max_rows * (block_keys + LANES)
        workspace = num_threads * scratch + num_slots * max_rows * (width + 2)
        return cls(chunks, merges, block_keys, max_rows, workspace)


def _row_ranges(problem: AttentionProblem) -> list[tuple[int, int]]:
    """Return `(first_row, num_rows)` of parts of at most `MAX_ROWS`.

    The rows from `i * group_size` on are those of query `i`.
    """
    num_rows = problem.group_size * problem.q_len
    return [(first, min(MAX_ROWS, num_rows - first)) for first in range(0, num_rows, MAX_ROWS)]


def _visible_keys(problem: AttentionProblem, sequence: int, first_row: int, num_rows: int) -> tuple[int, int]:
    """Return `(first, end)` of the keys that some of these rows see; none where `end == first`."""
    length = problem.kv_len_of(sequence)
    first_position = length - problem.q_len + first_row // problem.group_size
    last_position = length - problem.q_len + (first_row + num_rows - 1) // problem.group_size
    looks_back_only = problem.causal or problem.window is not None
    end = max(last_position + 1, 0) if looks_back_only else length
    first = 0 if problem.window is None else max(first_position - problem.window + 1, 0)
    return min(first, end), end


def _cuts(first: int, end: int, most: int) -> list[tuple[int, int]]:
    """Divide a range into equal parts of at most `most` keys; an empty range is one part."""
    count = max(math.ceil((end - first) / most), 1)
    bounds = [first + (end - first) * i // count for i in range(count + 1)]
    return list(pairwise(bounds))


def _padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
