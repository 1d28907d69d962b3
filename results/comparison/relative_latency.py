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
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import TypeVar

from gqabench.results.comparison.common_level import MEDIAN_ERROR, MIN_ARMS, Table, centred
from gqabench.results.comparison.verdicts import CellKey

Run = TypeVar("Run", bound=Hashable)


@dataclass(frozen=True)
class Reference:
    """What a cell is compared with."""

    cells: tuple[CellKey, ...]
    """Itself included."""
    is_of_case: bool
    """Of its own case; else all cells."""

    def level(self, cell: CellKey, residuals: Mapping[CellKey, float]) -> float | None:
        """Return the log level in one run, of centred values; None where it has nothing to compare with."""
        others = [residuals[one] for one in self.cells if one != cell and one in residuals]
        if len(others) < 2:
            return others[0] if others else None
        return median([residuals[cell], *others])

    def mean(self, cell: CellKey, centres: Mapping[CellKey, float]) -> float:
        """Return the mean log latency of what the cell is compared with, over all runs."""
        is_pair = len(self.cells) == 2
        return fmean(centres[one] for one in self.cells if not is_pair or one != cell)

    def error(self, cell: CellKey, within: Mapping[CellKey, float]) -> float:
        """Return the standard error of that level by the samples within a run."""
        others = [within[one] for one in self.cells if one != cell]
        if len(others) == 1:
            return others[0]
        return MEDIAN_ERROR * fmean([within[cell], *others]) / math.sqrt(len(self.cells))


def references(cells: Mapping[CellKey, object]) -> dict[CellKey, Reference]:
    """Return what each cell is compared with; nothing where there is a single arm."""
    if len({cell.arm for cell in cells}) < MIN_ARMS:
        return {}
    by_case: dict[str, list[CellKey]] = {}
    for cell in cells:
        by_case.setdefault(cell.case_id, []).append(cell)
    found = {}
    for cell in cells:
        of_case = by_case[cell.case_id]
        if len(of_case) > 1:
            found[cell] = Reference(tuple(of_case), is_of_case=True)
        else:
            found[cell] = Reference(tuple(cells), is_of_case=False)
    return found


def relative_table(table: Table[Run]) -> dict[CellKey, dict[Run, float]]:
    """Return log latencies relative to those of each cell's reference, by run.

    Levels are relative to the reference's geometric mean. Runs, and cells, without anything to compare with
    are left out.
    """
    residuals = centred(table)
    centres: dict[CellKey, float] = {}
    runs: dict[Run, dict[CellKey, float]] = {}
    for cell, by_run in residuals.items():
        for run, value in by_run.items():
            runs.setdefault(run, {})[cell] = value
            centres[cell] = table[cell][run] - value
    relative: dict[CellKey, dict[Run, float]] = {}
    for cell, reference in references(table).items():
        mean = reference.mean(cell, centres)
        for run, value in table[cell].items():
            if (level := reference.level(cell, runs[run])) is not None:
                relative.setdefault(cell, {})[run] = value - mean - level
    return relative
