"""Wilcoxon's signed rank test of log ratios, with the bounds that go with it: pure functions.

With `n` values there are `n (n+1) / 2` Walsh averages, the means of two values (each value with itself
included). The number of them above a point is Wilcoxon's `W+` of the values less that point; their median is
the estimate of the location, and their order statistics bound it (Hollander, Wolfe and Chicken, Nonparametric
Statistical Methods, 3rd ed., sections 3.1 to 3.3). P-values and bounds come from the one exact null
distribution, so that a bound lies beyond a point exactly if the test says so. Nothing about the shape of the
distribution is assumed but that it is symmetric, which the difference of two like-distributed values is.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


def walsh_averages(values: Values) -> Values:
    """Return means of all pairs in no order, `[n]` to `[n (n+1) / 2]`."""
    first, second = _pairs(len(values))
    return np.asarray((values[first] + values[second]) / 2)


def location(values: Values) -> float:
    """Return the estimate of Hodges and Lehmann: the median of the Walsh averages."""
    return float(np.median(walsh_averages(values)))


def p_greater(values: Values, point: float = 0.0) -> float:
    """Return one-sided p-value of the hypothesis that the location is at most `point`.

    Averages that equal the point count for the hypothesis, so ties make the test cautious.
    """
    num_above = int(np.count_nonzero(walsh_averages(values) > point))
    return float(_upper_tail(len(values))[num_above])


def p_less(values: Values, point: float = 0.0) -> float:
    """Return one-sided p-value of the hypothesis that the location is at least `point`."""
    return p_greater(-values, -point)


def lower_bound(values: Values, level: float) -> float | None:
    """Return what the location is at least, with an error probability of at most `level`.

    None where there are too few values for the level: `2^-n` is the least that `n` values reach.
    """
    # The hypothesis "location <= x" is refused if at least `needed` averages are above x.
    needed = int(np.searchsorted(-_upper_tail(len(values)), -level, side="left"))
    averages = np.sort(walsh_averages(values))
    return None if needed > len(averages) else float(averages[len(averages) - needed])


def upper_bound(values: Values, level: float) -> float | None:
    """Return what the location is at most, with an error probability of `level`; None as for the lower."""
    bound = lower_bound(-values, level)
    return None if bound is None else -bound


@cache
def _pairs(num_values: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    return np.triu_indices(num_values)


@cache
def _upper_tail(num_values: int) -> Values:
    """Return `P(W+ >= w)` for `w = 0, 1, ..., n (n+1) / 2` when every sign is a fair coin."""
    counts = np.ones(1)
    for rank in range(1, num_values + 1):  # the rank is in the sum, or it is not
        counts = np.concatenate([counts, np.zeros(rank)]) + np.concatenate([np.zeros(rank), counts])
    return np.asarray(np.cumsum((counts / counts.sum())[::-1])[::-1])
