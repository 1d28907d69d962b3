"""Ticks and labels, worked by hand."""

import itertools

import pytest

from gqabench.reports.figures.axes import bytes_ticks, log_ticks, spread_apart


def test_bytes_ticks_are_powers_of_two_and_few():
    assert bytes_ticks(1024, 8192) == [1024, 2048, 4096, 8192]
    ticks = bytes_ticks(1024, 1024**4)
    assert len(ticks) <= 7
    assert ticks[0] <= 1024
    assert ticks[-1] >= 1024**4 / 2**5


def test_log_ticks_are_denser_where_less_is_covered():
    assert log_ticks(0.01, 100) == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert log_ticks(1, 10) == pytest.approx([1, 2, 5, 10])


def test_labels_move_apart_no_more_than_they_must():
    assert spread_apart([0.0, 0.5, 1.0], 0.1) == pytest.approx([0.0, 0.5, 1.0])
    assert spread_apart([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    assert spread_apart([0.5, 0.0, 0.52], 0.1) == pytest.approx([0.46, 0.0, 0.56])
    moved = sorted(spread_apart([0.1, 0.1, 0.12, 0.2], 0.1))
    assert all(high - low >= 0.1 - 1e-9 for low, high in itertools.pairwise(moved))
