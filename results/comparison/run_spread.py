"""Is a cell slower, judged from stored runs? As sure as the spread from run to run allows: pure functions.

A value is the log of one run's median. Two runs of the same code differ by more than the samples within each
tell, so every test here asks how runs scatter, and takes the widest of the answers there are:

- With several runs, by the residuals of the cell's own values and by their median over all cells, under
  Student's t with `runs - 2` degrees of freedom.
- With one run a side, how all runs of a machine scatter is unknown, and a standard deviation is assumed
  (`Policy.assumed_run_spread`). A cell can also stand out from the others of the same two runs, which shared
  the conditions: its log ratio less the median of all is compared with the scatter of all (the median
  absolute deviation). Cells scatter by different amounts, so the tails are those of a t with 3 degrees of
  freedom, and what stands out by less than `STANDS_OUT_FROM` times the assumed deviation is no alarm: a
  machine with two speeds makes a tenth of its cells a quarter slower in one run of two.
- Never less than the samples within a run tell.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Key = TypeVar("Key", bound=Hashable)

MIN_CELLS_FOR_SCATTER = 10
SINGLE_RUN_FREEDOM = 3
STANDS_OUT_FROM = 3.0
_NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution by its median absolute deviation."""


@dataclass(frozen=True)
class Values:
    """One cell's values of one metric: logs, larger is worse; one of each run."""

    base: tuple[float, ...]
    new: tuple[float, ...]
    within: float
    """Standard error of one value by the samples within its run; 0 where there is no interval."""
    min_effect: float

    @property
    def point(self) -> float:
        return math.log1p(self.min_effect)

    @property
    def log_ratio(self) -> float:
        return float(np.mean(self.new) - np.mean(self.base))

    @property
    def freedom(self) -> int:
        return len(self.base) + len(self.new) - 2

    def residual_variance(self) -> float:
        """Return the variance of a run's value around its side's mean. For `freedom` of 1 and more."""
        squares = sum(float(np.var(side)) * len(side) for side in (self.base, self.new))
        return squares / self.freedom


@dataclass(frozen=True)
class Judged:
    """A cell's log ratio with what it is compared with."""

    log_ratio: float
    standard_error: float
    freedom: int
    p_worse: float
    """Of "not worse than the minimum effect"; of single runs the smaller of two tests, doubled."""
    p_better: float
    detectable: float
    """The least log ratio that would have been called worse, had this cell alone changed."""

    def bound(self, level: float, side: int) -> float:
        """Return the one-sided bound of the log ratio; `side` is -1 for the lower and 1 for the upper."""
        return self.log_ratio + side * t_quantile(level, self.freedom) * self.standard_error


def judge_values(
    cells: Mapping[Key, Values], assumed_run_spread: float, false_discovery_rate: float
) -> dict[Key, Judged]:
    """Judge all cells of one metric. A lone alarm has to pass the rate over the number of cells."""
    level = false_discovery_rate / max(len(cells), 1)
    several = {key: values for key, values in cells.items() if values.freedom >= 1}
    single = {key: values for key, values in cells.items() if values.freedom == 0}
    return _judge_several(several, level) | _judge_single(single, assumed_run_spread, level)


def _judge_several(cells: Mapping[Key, Values], level: float) -> dict[Key, Judged]:
    if not cells:
        return {}
    own = {key: values.residual_variance() for key, values in cells.items()}
    typical = float(np.median(list(own.values())))
    errors = {
        key: math.sqrt(
            max(own[key], typical, values.within**2) * (1 / len(values.base) + 1 / len(values.new))
        )
        for key, values in cells.items()
    }
    ratios = np.array([values.log_ratio for values in cells.values()])
    points = np.array([values.point for values in cells.values()])
    freedoms = np.array([values.freedom for values in cells.values()])
    widths = np.array(list(errors.values()))
    worse, better = _tail(ratios - points, widths, freedoms), _tail(-ratios - points, widths, freedoms)
    return {
        key: Judged(
            float(ratios[place]),
            errors[key],
            values.freedom,
            float(worse[place]),
            float(better[place]),
            values.point + t_quantile(level, values.freedom) * errors[key],
        )
        for place, (key, values) in enumerate(cells.items())
    }


def _judge_single(cells: Mapping[Key, Values], assumed_run_spread: float, level: float) -> dict[Key, Judged]:
    if not cells:
        return {}
    ratios = np.array([values.log_ratio for values in cells.values()])
    points = np.array([values.point for values in cells.values()])
    within = np.array([values.within for values in cells.values()]) * math.sqrt(2)
    assumed = np.hypot(assumed_run_spread * math.sqrt(2), within)
    freedom = np.full(len(ratios), SINGLE_RUN_FREEDOM)
    worse, better = _tail(ratios - points, assumed, freedom), _tail(-ratios - points, assumed, freedom)
    errors, detectable = assumed, points + t_quantile(level, SINGLE_RUN_FREEDOM) * assumed
    if len(cells) >= MIN_CELLS_FOR_SCATTER:
        excess = ratios - np.median(ratios)
        scatter = np.maximum(_NORMAL_MAD * np.median(np.abs(excess)), within)
        least = STANDS_OUT_FROM * assumed_run_spread
        out, fallen = np.minimum(excess, ratios), np.minimum(-excess, -ratios)
        stands_out = np.where(out > least, _tail(out - points, scatter, freedom), 1.0)
        falls_out = np.where(fallen > least, _tail(fallen - points, scatter, freedom), 1.0)
        errors = np.where(np.minimum(stands_out, falls_out) < np.minimum(worse, better), scatter, assumed)
        worse = np.minimum(2 * np.minimum(worse, stands_out), 1)
        better = np.minimum(2 * np.minimum(better, falls_out), 1)
        width = t_quantile(level / 2, SINGLE_RUN_FREEDOM)  # two tests
        detectable = points + width * assumed
        detectable = np.minimum(detectable, np.maximum(points + width * scatter, least))
    return {
        key: Judged(
            float(ratios[place]),
            float(errors[place]),
            SINGLE_RUN_FREEDOM,
            float(worse[place]),
            float(better[place]),
            float(detectable[place]),
        )
        for place, key in enumerate(cells)
    }


@cache
def t_quantile(level: float, freedom: int) -> float:
    """Return what Student's t is above with the probability `level`."""
    from scipy.stats import t

    return float(t.isf(level, freedom))


def _tail(
    distances: npt.NDArray[np.float64], errors: npt.NDArray[np.float64], freedom: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return `P(T > distance / error)`. Without any error the sign decides."""
    from scipy.stats import t  # here: reading records does not wait for scipy

    safe = np.where(errors > 0, errors, 1)
    sure = np.where(distances > 0, 0.0, 1.0)
    return np.asarray(np.where(errors > 0, t.sf(distances / safe, freedom), sure))
