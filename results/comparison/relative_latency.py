"""Arms judged against each other: a cell's latency relative to the arms of its case, in the same run.

What an environment does to all arms of a run cancels in their ratios, and so does much of the spread from
run to run. A cell is compared with

- the median of its case's arms, itself included, where a case has three or more: one arm that moved, either
  way, then moves only itself;
- the other arm, where there are two;
- all cells of the run, where it is alone in its case.

With two arms a ratio does not tell which of them moved. So an arm is slower only if it is so beside what all
arms of the run did, too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import TypeVar

from gqabench.results.comparison.common_level import MEDIAN_ERROR, MIN_ARMS, Table, centred, run_levels
from gqabench.results.comparison.verdicts import CellKey

Run = TypeVar("Run", bound=Hashable)


@dataclass(frozen=True)
class Reference:
    """What a cell is compared with."""

    arms: tuple[CellKey, ...]
    """Of its case, itself included; none where it is alone there, and compared with all cells of the run."""

    @property
    def is_of_case(self) -> bool:
        return bool(self.arms)

    def level(self, cell: CellKey, residuals: Mapping[CellKey, float], of_run: float) -> float | None:
        """Return the log level in one run, of centred values; None where the other arms have none there."""
        if not self.arms:
            return of_run
        others = [residuals[arm] for arm in self.arms if arm != cell and arm in residuals]
        if len(others) < 2:
            return others[0] if others else None
        return median([residuals[cell], *others])

    def mean(self, cell: CellKey, centres: Mapping[CellKey, float], of_all: float) -> float:
        """Return the mean log latency of what the cell is compared with, over all runs."""
        if not self.arms:
            return of_all
        is_pair = len(self.arms) == 2
        return fmean(centres[arm] for arm in self.arms if not is_pair or arm != cell)

    def error(self, cell: CellKey, within: Mapping[CellKey, float]) -> float:
        """Return the standard error of that level by the samples within a run; that of all cells is none."""
        if not self.arms:
            return 0.0
        if len(self.arms) == 2:
            return sum(within[arm] for arm in self.arms if arm != cell)
        return MEDIAN_ERROR * fmean(within[arm] for arm in self.arms) / math.sqrt(len(self.arms))


def references(cells: Collection[CellKey]) -> dict[CellKey, Reference]:
    """Return what each cell is compared with; nothing where there is a single arm."""
    if len({cell.arm for cell in cells}) < MIN_ARMS:
        return {}
    by_case: dict[str, list[CellKey]] = {}
    for cell in cells:
        by_case.setdefault(cell.case_id, []).append(cell)
    of_cases = {case: tuple(arms) if len(arms) > 1 else () for case, arms in by_case.items()}
    return {cell: Reference(of_cases[cell.case_id]) for cell in cells}


def relative_table(table: Table[Run]) -> dict[CellKey, dict[Run, float]]:
    """Return log latencies relative to those of each cell's reference, by run.

    Values are relative to the reference's geometric mean. Runs, and cells, without anything to compare with
    are left out.
    """
    residuals = centred(table)
    levels = run_levels(residuals)
    centres: dict[CellKey, float] = {}
    by_run: dict[Run, dict[CellKey, float]] = {}
    for cell, values in residuals.items():
        for run, value in values.items():
            by_run.setdefault(run, {})[cell] = value
            centres[cell] = table[cell][run] - value
    mean_of_all = fmean(centres.values()) if centres else 0.0
    relative: dict[CellKey, dict[Run, float]] = {}
    for cell, reference in references(table.keys()).items():
        mean = reference.mean(cell, centres, mean_of_all)
        for run, value in table[cell].items():
            if (level := reference.level(cell, by_run[run], levels[run])) is not None:
                relative.setdefault(cell, {})[run] = value - mean - level
    return relative
