"""Which program reads which keys: the visible keys of every sequence, divided into similar work items.

The items of all sequences run in one launch, longest first. How long an item may be is chosen by simulating
that: few long items leave processors idle at the end, and many short ones pay for starting, for partial
results, and for merging them.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from gqabench.attention_impls.problem import AttentionProblem

START_TILES = 2.0
"""The cost of starting a program, in tiles of keys: an estimate of filling its pipeline, not yet measured."""

MERGE_TILES = 0.1
"""The cost of merging one part, in tiles of keys: an estimate, not yet measured."""

MAX_WAVES = 4
"""Waves of programs that may work on split sequences: this bounds their partial results."""


@dataclass(frozen=True)
class WorkItem:
    """A run of keys of one sequence. Its fields, in this order, are what the kernel reads."""

    sequence: int
    length: int
    """Tokens of the sequence"""
    first_key: int
    """The first key that any query of the sequence sees"""
    begin: int
    """A multiple of the tile; keys before `first_key` are masked"""
    end: int
    part: int
    num_parts: int


@dataclass(frozen=True)
class DecodeSchedule:
    """The work items of a problem, and the slots of each sequence's partial results."""

    items: tuple[WorkItem, ...]
    """Longest first"""
    num_parts: tuple[int, ...]
    """Of each sequence; 1 means that the item writes the output itself"""
    first_slots: tuple[int, ...]
    num_slots: int
    """Partial results of one row, over the batch: 0 where nothing is split"""


def decode_schedule(
    problem: AttentionProblem, block_n: int, programs_per_item: int, num_resident: int
) -> DecodeSchedule:
    """Return the schedule that ends first in a simulation.

    `programs_per_item` is the number of key/value heads times row blocks, `num_resident` how many programs
    the device runs at a time.
    """
    tiles = [_tiles_of(problem, sequence, block_n) for sequence in range(problem.batch_size)]
    longest = max(len(run) for run in tiles)
    choices = sorted({-(-longest // parts) for parts in range(1, longest + 1)}, reverse=True)
    best = min(
        choices,
        key=lambda most: _simulated_end([len(run) for run in tiles], most, programs_per_item, num_resident),
    )
    return schedule_of(problem, block_n, best)


def schedule_of(problem: AttentionProblem, block_n: int, most_tiles: int) -> DecodeSchedule:
    """Return the schedule whose items have at most `most_tiles` tiles.

    The items of one sequence differ by at most one tile.
    """
    items, num_parts, first_slots = [], [], []
    num_slots = 0
    for sequence in range(problem.batch_size):
        tiles, length = _tiles_of(problem, sequence, block_n), problem.kv_len_of(sequence)
        parts = -(-len(tiles) // most_tiles)
        num_parts.append(parts)
        first_slots.append(num_slots)
        num_slots += parts if parts > 1 else 0
        for part in range(parts):
            first, end = (tiles.start + len(tiles) * edge // parts for edge in (part, part + 1))
            items.append(
                WorkItem(
                    sequence, length, first_visible_key(problem, sequence),
                    first * block_n, min(end * block_n, length), part, parts,
                )
            )  # fmt: skip
    items.sort(key=lambda item: item.begin - item.end)
    return DecodeSchedule(tuple(items), tuple(num_parts), tuple(first_slots), num_slots)


def first_visible_key(problem: AttentionProblem, sequence: int) -> int:
    """Return the first key that any query of a sequence sees."""
    if problem.window is None:
        return 0
    return max(problem.kv_len_of(sequence) - problem.q_len - problem.window + 1, 0)


def _tiles_of(problem: AttentionProblem, sequence: int, block_n: int) -> range:
    """Return the tiles that hold at least one visible key."""
    return range(first_visible_key(problem, sequence) // block_n, -(-problem.kv_len_of(sequence) // block_n))


def _simulated_end(tiles: list[int], most_tiles: int, programs_per_item: int, num_resident: int) -> float:
    """Return when the last program ends, in tiles, if a free processor always takes the longest item left."""
    parts = [-(-count // most_tiles) for count in tiles]
    num_programs = sum(parts) * programs_per_item
    if sum(split for split in parts if split > 1) * programs_per_item > MAX_WAVES * num_resident:
        return float("inf")
    costs = sorted(
        (
            START_TILES + -(-count // split)
            for count, split in zip(tiles, parts, strict=True)
            for _ in range(split)
        ),
        reverse=True,
    )
    free_at = [0.0] * min(num_resident, num_programs)
    for cost in costs:
        for _ in range(programs_per_item):
            heapq.heapreplace(free_at, free_at[0] + cost)
    return max(free_at) + MERGE_TILES * max(parts)
