from __future__ import annotations

import numpy as np
import pytest

from results.statistics import MedianInterval, median, median_interval


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([3.0], 3.0),
        ([1.0, 2.0], 1.5),
        ([5.0, 1.0, 3.0], 3.0),
        ([4.0, 1.0, 3.0, 2.0], 2.5),
        ([2.0, 2.0, 2.0, 9.0], 2.0),
        ([1.0, 1.0, 1.0, 1.0, 1e9], 1.0),
    ],
    ids=["one", "two", "odd", "even", "ties", "outlier"],
)
def test_median_of_hand_worked_cases(samples: list[float], expected: float) -> None:
    assert median(samples) == expected


def test_no_samples_have_no_median() -> None:
    with pytest.raises(ValueError, match="no samples"):
        median([])


@pytest.mark.parametrize("num_samples", [0, 1, 2, 5])
def test_too_few_samples_have_no_interval(num_samples: int) -> None:
    # P(all five on one side of the median) = 2 / 2^5 = 6.25 %, more than 5 %
    assert median_interval([float(i) for i in range(num_samples)]) is None


@pytest.mark.parametrize(
    ("num_samples", "rank"),
    # 6: 2/2^6 = 3.1 %. 8: 2(1+8)/2^8 = 7.0 % at rank 2, so rank 1. 9: 2(1+9)/2^9 = 3.9 % at rank 2.
    # 20: rank 6 (Conover's table: 4.1 %).
    [(6, 1), (8, 1), (9, 2), (20, 6)],
)
def test_interval_ranks_are_the_binomial_ones(num_samples: int, rank: int) -> None:
    samples = [float(i) for i in range(1, num_samples + 1)]
    assert median_interval(samples) == MedianInterval(low=rank, high=num_samples + 1 - rank)


def test_an_outlier_does_not_move_the_interval_of_nine_samples() -> None:
    samples = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 1e9]
    assert median_interval(samples) == MedianInterval(low=2.0, high=8.0)


def test_order_does_not_matter_and_ties_give_an_empty_interval() -> None:
    assert median_interval([7.0] * 30) == MedianInterval(low=7.0, high=7.0)
    samples = list(np.random.default_rng(0).normal(size=31))
    assert median_interval(samples) == median_interval(sorted(samples))


def test_relative_half_width_is_a_share_of_the_median() -> None:
    assert MedianInterval(low=9.0, high=11.0).relative_half_width(10.0) == pytest.approx(0.1)


@pytest.mark.parametrize("num_samples", [7, 20, 51])
def test_interval_covers_the_true_median_at_least_as_often_as_it_says(num_samples: int) -> None:
    generator = np.random.default_rng(num_samples)
    draws = generator.lognormal(sigma=1.0, size=(4000, num_samples))  # its median is 1
    intervals = [median_interval(row) for row in draws]
    covered = sum(interval is not None and interval.low <= 1.0 <= interval.high for interval in intervals)
    assert 0.94 <= covered / len(draws) <= 0.995  # order statistics cover somewhat more than asked
