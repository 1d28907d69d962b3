from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wilcoxon

from gqabench.results.statistics.signed_rank import (
    location,
    lower_bound,
    p_greater,
    p_less,
    upper_bound,
    walsh_averages,
)


def test_three_values_by_hand() -> None:
    """Walsh averages of 1, 2, 6: 1, 1.5, 3.5, 2, 4, 6. Sign patterns of three values: eight."""
    values = np.array([1.0, 2.0, 6.0])
    assert sorted(walsh_averages(values)) == [1, 1.5, 2, 3.5, 4, 6]
    assert location(values) == 2.75
    assert (
        p_greater(values) == 1 / 8
    )  # all six averages are above 0: W+ = 6, which one pattern of eight gives
    assert p_greater(values, 1.2) == 2 / 8  # five above 1.2: W+ >= 5
    assert p_greater(values, 1.7) == 3 / 8  # four above 1.7
    assert p_greater(values, 10) == 1
    assert p_less(values, 10) == 1 / 8


def test_a_bound_is_where_the_test_turns() -> None:
    values = np.array([1.0, 2.0, 6.0])
    assert lower_bound(values, 1 / 8) == 1
    assert lower_bound(values, 2 / 8) == 1.5
    assert upper_bound(values, 1 / 8) == 6
    assert lower_bound(values, 0.1) is None  # three values reach one in eight, not one in ten
    assert lower_bound(np.array([]), 0.1) is None


def test_one_value_and_ties() -> None:
    assert p_greater(np.array([3.0])) == 0.5
    assert location(np.array([3.0])) == 3
    assert p_greater(np.full(5, 0.1)) == 1 / 32
    assert p_greater(np.zeros(5)) == 1  # what equals the point speaks for the hypothesis
    assert p_greater(np.full(5, 0.02), 0.02) == 1


def test_an_outlier_counts_by_its_rank() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, -0.5])
    assert p_greater(values) == p_greater(np.array([1.0, 2.0, 3.0, 400.0, -0.5])) == 2 / 32


@pytest.mark.parametrize("num_values", [4, 5, 9, 14, 20, 31])
def test_scipy_gives_the_same_p_values(num_values: int) -> None:
    generator = np.random.default_rng(num_values)
    for shift in (0.0, 0.3, 1.0):
        values = generator.normal(shift, 1, num_values)
        exact = wilcoxon(values, alternative="greater", method="exact").pvalue
        assert p_greater(values) == pytest.approx(exact)


def test_bounds_cover_as_often_as_they_say() -> None:
    generator = np.random.default_rng(7)
    covers = 0
    for _ in range(2000):
        bound = lower_bound(generator.standard_t(2, 9), 0.05)
        covers += bound is not None and bound <= 0
    assert 0.94 <= covers / 2000 <= 0.97
