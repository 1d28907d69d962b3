"""What a run does to all its cells: its level, and whether all arms share a shift of it.

The arms of a case are measured interleaved, in the same run: what a machine, a driver or a library does to
all of them shows as one level of the run. Logs of latencies are a table of cells and runs. The medians of its
rows and columns are taken out in turn (Tukey's median polish, Exploratory Data Analysis, 1977, chapter 11),
where a run's level is the median over its arms of each arm's median: an implementation with many cells has
one vote, and a kernel that moved alone moves no level. Pure functions of log values.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from gqabench.results.comparison.verdicts import CellKey

Run = TypeVar("Run", bound=Hashable)
Table = Mapping[CellKey, Mapping[Run, float]]
"""A log value for each cell and run; cells may lack runs."""

MIN_ARMS = 2
MIN_CELLS = 4
"""Fewer arms or cells are no "all": what they did may be their own."""
NEARLY_ALL = 0.75
"""The share of cells that has to move with the others."""
LEAST_SHARE = 0.5
"""Of the common shift: what moved by less of it, or the other way, did not move alike."""
_NUM_PASSES = 3
_NORMAL_MAD = 1.4826
MEDIAN_ERROR = math.sqrt(math.pi / 2)
"""Standard error of a median of normal values, in units of that of their mean."""


@dataclass(frozen=True)
class CommonShift:
    """A shift that every arm made, by alike amounts."""

    log_ratio: float
    """The median of the arms' medians."""
    cells_error: float
    """Its standard error by the scatter of the cells about it; 0 where they do not scatter."""
    num_moved: int
    """Cells that moved by at least half of it, in its direction."""
    num_cells: int
    num_arms: int


def centred(table: Table[Run]) -> dict[CellKey, dict[Run, float]]:
    """Return each cell's values less its own level: what remains is the run's, or of cell and run."""
    levels = {run: 0.0 for by_run in table.values() for run in by_run}
    residuals: dict[CellKey, dict[Run, float]] = {}
    for _ in range(_NUM_PASSES):
        for cell, by_run in table.items():
            centre = median(value - levels[run] for run, value in by_run.items())
            residuals[cell] = {run: value - centre for run, value in by_run.items()}
        levels = run_levels(residuals)
    return residuals


def run_levels(residuals: Table[Run]) -> dict[Run, float]:
    """Return the level of each run: of centred values, the median over its arms of each arm's median."""
    by_run: dict[Run, dict[str, list[float]]] = {}
    for cell, values in residuals.items():
        for run, value in values.items():
            by_run.setdefault(run, {}).setdefault(cell.arm, []).append(value)
    return {run: median(map(median, arms.values())) for run, arms in by_run.items()}


def common_shift(shifts: Mapping[CellKey, float]) -> CommonShift | None:
    """Return the shift that all arms share; None where they did not move alike, or are too few to tell.

    `shifts` are cells' log ratios of after to before. An arm may have moved further than the others: the rest
    is its own. One that moved by less than half as much, or the other way, did not move with them.
    """
    by_arm: dict[str, list[float]] = {}
    for cell, shift in shifts.items():
        by_arm.setdefault(cell.arm, []).append(shift)
    if len(by_arm) < MIN_ARMS or len(shifts) < MIN_CELLS:
        return None
    of_arms = [median(values) for values in by_arm.values()]
    common = median(of_arms)
    if common == 0 or any(shift / common < LEAST_SHARE for shift in of_arms):
        return None
    num_moved = sum(shift / common >= LEAST_SHARE for shift in shifts.values())
    if num_moved < NEARLY_ALL * len(shifts):
        return None
    scatter = _NORMAL_MAD * median(abs(shift - common) for shift in shifts.values())
    return CommonShift(
        common, MEDIAN_ERROR * scatter / math.sqrt(len(shifts)), num_moved, len(shifts), len(by_arm)
    )
