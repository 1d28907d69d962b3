from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import ndtri
from scipy.stats.mstats import median_cihs

from gqabench.results.statistics.samples import MedianInterval, median, median_interval

Draw = Callable[[np.random.Generator, tuple[int, int]], npt.NDArray[Any]]


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
    ("num_samples", "low"),
    [
        # Six: rank 1 covers 1 - 2/64 = 31/32, rank 2 covers 1 - 14/64 = 25/32, 0.95 lies a tenth of the way
        # from one to the other, and the share is (5/10) / (1 + 4/10) = 5/14.
        (6, 1 + 5 / 14),
        # Nine: rank 2 covers 1 - 20/512, rank 3 covers 1 - 92/512, 0.95 lies 7/90 of the way,
        # and the share is (7 * 7/90) / (2 + 5 * 7/90) = 49/215.
        (9, 2 + 49 / 215),
    ],
    ids=["even", "odd"],
)
def test_intervals_of_hand_worked_cases(num_samples: int, low: float) -> None:
    samples = [float(i) for i in range(1, num_samples + 1)]
    interval = median_interval(samples)
    assert interval is not None
    assert interval.low == pytest.approx(low, rel=1e-12)
    assert interval.high == pytest.approx(num_samples + 1 - low, rel=1e-12)


def test_two_samples_have_an_interval_at_one_half() -> None:
    # P(one on each side of the median) = 1/2 exactly: nothing to interpolate
    assert median_interval([2.0, 1.0], confidence=0.5) == MedianInterval(low=1.0, high=2.0)
    assert median_interval([2.0, 1.0], confidence=0.51) is None


@pytest.mark.parametrize("confidence", [0.0, 0.49, 1.0, 95.0])
def test_a_confidence_that_has_no_interval_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match=f"confidence is {confidence}"):
        median_interval([1.0] * 10, confidence)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 0.99])
@pytest.mark.parametrize("num_samples", [8, 11, 20, 101, 2000])
def test_intervals_are_those_of_scipy(num_samples: int, confidence: float) -> None:
    samples = np.random.default_rng(num_samples).lognormal(size=num_samples)
    interval = median_interval(list(samples), confidence)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(
        median_cihs(samples, alpha=1 - confidence), rel=1e-9
    )


def test_an_outlier_does_not_move_the_interval_of_nine_samples() -> None:
    samples = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert median_interval([*samples, 1e9]) == median_interval([*samples, 9.0])


def test_order_does_not_matter() -> None:
    samples = list(np.random.default_rng(0).normal(size=31))
    assert median_interval(samples) == median_interval(sorted(samples))


def test_ties_give_an_empty_interval_without_rounding() -> None:
    assert median_interval([0.1] * 30) == MedianInterval(low=0.1, high=0.1)


def test_an_interval_of_ties_and_others_ends_at_the_ties() -> None:
    # Of 20 samples, ranks 6 and 7 from either end decide: 1.0 below, and 2.0 above
    assert median_interval([1.0] * 8 + [1.5] * 4 + [2.0] * 8) == MedianInterval(low=1.0, high=2.0)


def test_relative_half_width_is_a_share_of_the_median() -> None:
    assert MedianInterval(low=9.0, high=11.0).relative_half_width(10.0) == pytest.approx(0.1)


def _two_modes(generator: np.random.Generator, size: tuple[int, int]) -> npt.NDArray[Any]:
    """Seven of ten around 0, three around 8 standard deviations."""
    return generator.normal(size=size) + 8 * (generator.random(size) < 0.3)


DISTRIBUTIONS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda generator, size: generator.normal(size=size), 0.0),
    "lognormal": (lambda generator, size: generator.lognormal(sigma=1.0, size=size), 1.0),
    "exponential": (lambda generator, size: generator.exponential(size=size), float(np.log(2))),
    "cauchy": (lambda generator, size: generator.standard_cauchy(size=size), 0.0),
    "bimodal": (_two_modes, float(ndtri(0.5 / 0.7))),
}
"""How to draw samples, and the median of what they are drawn from."""


@pytest.mark.parametrize("num_samples", [6, 7, 8, 9, 12, 20, 51, 200])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_95_percent_intervals_cover_the_true_median_93_to_97_times_of_100(
    distribution: str, num_samples: int
) -> None:
    draw, true_median = DISTRIBUTIONS[distribution]
    draws = draw(np.random.default_rng(num_samples), (4000, num_samples))
    intervals = [median_interval(row) for row in draws]
    num_covering = sum(i is not None and i.low <= true_median <= i.high for i in intervals)
    assert 0.93 <= num_covering / len(draws) <= 0.97
