"""Statistics of timing samples: pure functions of the raw samples, each stated exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np


@dataclass(frozen=True)
class MedianInterval:
    """A confidence interval of a median, in the unit of the samples."""

    low: float
    high: float

    def relative_half_width(self, median: float) -> float:
        """Return half the width as a share of the median."""
        return (self.high - self.low) / (2 * median)


def median(samples: Sequence[float]) -> float:
    """Return the middle sample, or the mean of the middle two. Raises `ValueError` when there is none."""
    if len(samples) == 0:
        raise ValueError("no samples")
    return float(np.median(samples))


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> MedianInterval | None:
    """Return the interval of the median from interpolated order statistics: no distribution is assumed.

    With sorted samples `x_1 <= ... <= x_n`, `[x_k, x_(n+1-k)]` covers the median with probability
    `c_k = 1 - 2 P(Binomial(n, 1/2) < k)` (Conover, Practical Nonparametric Statistics, 3rd ed., section 3.2).
    Those are coarse steps: 98.4 % or 87.5 % with 7 samples. With `k` such that `c_k >= confidence > c_(k+1)`,
    both ends move inwards by the share `w = (n-k) i / (k + (n-2k) i)` of the way to the next sample, where
    `i = (c_k - confidence) / (c_k - c_(k+1))` (Hettmansperger and Sheather, "Confidence intervals based on
    interpolated order statistics", Statistics & Probability Letters 4 (1986) 75-79; Nyblom, "Note on
    interpolated order statistics", same journal 14 (1992) 129-131).

    None where even `[x_1, x_n]` covers too seldom: below 6 samples at 95 %. In simulations, 93 to 97 % of the
    95 % intervals of independent samples cover. Fewer do where the median lies in a gap between two equal
    halves (90 % with 7 samples), where neighbouring samples resemble each other, and where measuring stopped
    because the interval was narrow (`harness/measure/rounds.py`). Raises `ValueError` for a confidence
    outside [0.5, 1), for which the formula does not hold.
    """
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence is {confidence}: must be at least 0.5 and below 1")
    position = _interval_position(len(samples), confidence)
    if position is None:
        return None
    rank, share = position
    ordered = np.sort(np.asarray(samples, dtype=float))
    low, next_low = ordered[rank - 1], ordered[rank]
    high, next_high = ordered[-rank], ordered[-rank - 1]
    return MedianInterval(
        low=float(low + share * (next_low - low)), high=float(high + share * (next_high - high))
    )


@cache
def _interval_position(num_samples: int, confidence: float) -> tuple[int, float] | None:
    """Return the `k` of `median_interval`, counted from 1, and its `w`."""
    from scipy.special import bdtr  # here, so that reading records does not wait for scipy

    if num_samples == 0:
        return None
    below = bdtr(np.arange(num_samples // 2 + 1), num_samples, 0.5)  # P(Binomial <= 0), P(Binomial <= 1), ...
    rank = int(np.searchsorted(below, (1 - confidence) / 2, side="right"))
    if rank == 0:
        return None
    coverage, next_coverage = 1 - 2 * below[rank - 1], 1 - 2 * below[rank]
    excess = (coverage - confidence) / (coverage - next_coverage)
    share = (num_samples - rank) * excess / (rank + (num_samples - 2 * rank) * excess)
    return rank, float(share)
