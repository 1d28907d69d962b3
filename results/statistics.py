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
        """Half the width as a share of the median."""
        return (self.high - self.low) / (2 * median)


def median(samples: Sequence[float]) -> float:
    """The middle sample, or the mean of the middle two. Raises `ValueError` when there is none."""
    if len(samples) == 0:
        raise ValueError("no samples")
    return float(np.median(samples))


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> MedianInterval | None:
    """The distribution-free interval of the median from order statistics.

    With sorted samples `x_1 <= ... <= x_n`, `[x_k, x_(n+1-k)]` covers the median with probability
    `1 - 2 P(Binomial(n, 1/2) < k)`; `k` is the largest that keeps at least `confidence`
    (Conover, Practical Nonparametric Statistics, 3rd ed., section 3.2). None where even `k = 1` does not:
    below 6 samples at 95 %.
    """
    rank = _interval_rank(len(samples), confidence)
    if rank is None:
        return None
    ordered = np.sort(np.asarray(samples, dtype=float))
    return MedianInterval(low=float(ordered[rank - 1]), high=float(ordered[len(ordered) - rank]))


@cache
def _interval_rank(num_samples: int, confidence: float) -> int | None:
    """The `k` of `median_interval`, counted from 1."""
    from scipy.special import bdtr  # here, so that reading records does not wait for scipy

    if num_samples == 0:
        return None
    tail = (1.0 - confidence) / 2
    candidates = [k for k in range(1, num_samples // 2 + 1) if bdtr(k - 1, num_samples, 0.5) <= tail]
    return candidates[-1] if candidates else None
