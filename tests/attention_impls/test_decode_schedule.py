"""How the keys of a batch are shared out: each visible one once, in a bounded workspace."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gqabench.attention_impls import AttentionProblem
from gqabench.attention_impls.kernels.triton.decode_schedule import (
    MAX_WAVES,
    WorkItem,
    decode_schedule,
    first_visible_key,
    schedule_of,
)

BLOCK_N = 64


def ragged(*lengths: int, q_len: int = 1, window: int | None = None) -> AttentionProblem:
    return AttentionProblem(
        batch_size=len(lengths), q_len=q_len, kv_len=max(lengths), num_q_heads=8, num_kv_heads=2, head_dim=64,
        dtype="bfloat16", device="cuda", window=window, kv_lens=lengths,
    )  # fmt: skip


@given(
    lengths=st.lists(st.integers(1, 20_000), min_size=1, max_size=6),
    q_len=st.integers(1, 16),
    window=st.none() | st.integers(1, 5000),
    most_tiles=st.integers(1, 100),
)
@settings(max_examples=60)
def test_every_visible_key_is_in_one_item(lengths, q_len, window, most_tiles):
    problem = ragged(*lengths, q_len=min(q_len, max(lengths)), window=window)
    schedule = schedule_of(problem, BLOCK_N, most_tiles)
    slots = 0
    for sequence, length in enumerate(lengths):
        items = sorted(
            (item for item in schedule.items if item.sequence == sequence), key=lambda item: item.part
        )
        first = first_visible_key(problem, sequence)
        assert [item.part for item in items] == list(range(schedule.num_parts[sequence]))
        assert {item.num_parts for item in items} == {len(items)}
        assert items[0].begin <= first < items[0].begin + BLOCK_N
        assert items[-1].end == length
        assert all(one.end == following.begin for one, following in pairwise(items))
        assert all(item.begin % BLOCK_N == 0 and item.begin < item.end for item in items)
        assert all(item.end - item.begin <= most_tiles * BLOCK_N for item in items)
        if len(items) > 1:
            assert schedule.first_slots[sequence] == slots
            slots += len(items)
    assert schedule.num_slots == slots


def test_a_worked_case():
    """Three tiles of 64 keys in items of at most two: one tile and two; the other sequence is whole."""
    schedule = schedule_of(ragged(10, 150), BLOCK_N, 2)
    assert schedule.items == (
        WorkItem(1, 150, 0, 64, 150, 1, 2),
        WorkItem(1, 150, 0, 0, 64, 0, 2),
        WorkItem(0, 10, 0, 0, 10, 0, 1),
    )
    assert (schedule.num_parts, schedule.first_slots, schedule.num_slots) == ((1, 2), (0, 0), 2)


def test_keys_before_every_window_are_not_read():
    schedule = schedule_of(ragged(1000, q_len=3, window=100), BLOCK_N, 1000)
    assert (schedule.items[0].first_key, schedule.items[0].begin) == (898, 896)


def test_one_long_sequence_is_split_over_the_device():
    schedule = decode_schedule(ragged(100_000), BLOCK_N, programs_per_item=1, num_resident=132)
    assert 100 <= schedule.num_parts[0] <= 132


def test_a_batch_that_fills_the_device_is_not_split():
    schedule = decode_schedule(ragged(*[4096] * 264), BLOCK_N, programs_per_item=1, num_resident=132)
    assert set(schedule.num_parts) == {1}


def test_items_of_a_ragged_batch_end_together():
    """One sequence of 100,000 among 63 of 1,000: unsplit it would take the device a hundred times as long."""
    schedule = decode_schedule(ragged(100_000, *[1000] * 63), BLOCK_N, programs_per_item=1, num_resident=132)
    lengths = [item.end - item.begin for item in schedule.items]
    assert max(lengths) <= 2 * sum(lengths) / 132
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("num_short", [131, 255, 511])
def test_a_long_sequence_is_split_beside_many_short_ones(num_short):
    """More programs than the device runs at a time, even where none is split."""
    lengths = (100_000, *[1000] * num_short)
    schedule = decode_schedule(ragged(*lengths), BLOCK_N, programs_per_item=8, num_resident=264)
    longest = max(item.end - item.begin for item in schedule.items)
    assert longest <= sum(lengths) * 8 / 264 / 2
    assert set(schedule.num_parts[1:]) == {1}


@pytest.mark.parametrize("length", [1, 100, 10_000, 1_000_000])
def test_the_workspace_is_bounded_whatever_the_length(length):
    schedule = decode_schedule(ragged(*[length] * 3), BLOCK_N, programs_per_item=8, num_resident=132)
    assert schedule.num_slots * 8 <= MAX_WAVES * 132
