"""Where the environment of a history moved: runs from which all arms are alike slower or faster.

Each run has a level, the median of what it did to all cells (`gqabench.results.comparison.common_level`).
Where that level changes and all arms share the shift, the environment moved, or the code that all arms share.
The steps are then taken out of each cell's values, so that what remains is the cell's own: of a case with
three arms or more the median of its arms' shifts, of another the shift of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from gqabench.results.comparison.common_level import CommonShift, centred, common_shift, run_levels
from gqabench.results.comparison.environment_move import CODE, ENVIRONMENT, FactChange, fact_changes
from gqabench.results.comparison.verdicts import CellKey
from gqabench.results.store.run_folder import RunHeader

_MIN_ARMS_OF_A_CASE = 3
"""Of fewer, a median is moved by one arm."""

Values = Mapping[CellKey, Mapping[int, float]]
"""A value for each cell and run, which is its place in the order of time."""
ChangePoints = Callable[[Sequence[float]], list[int]]


@dataclass(frozen=True)
class CommonStep:
    """A shift that all arms share, from a run on."""

    last: int
    """The place of the last run before it."""
    first: int
    shift: CommonShift
    of_cases: Mapping[str, float]
    """Log ratios of cases with arms enough for one of their own, by case."""

    def of(self, cell: CellKey) -> float:
        """Return the log ratio of it that a cell shares."""
        return self.of_cases.get(cell.case_id, self.shift.log_ratio)


@dataclass(frozen=True)
class HistoryMove:
    """From one run to the next the environment moved: by its facts, by what all arms did, or by both."""

    last: RunHeader
    first: RunHeader
    facts: tuple[FactChange, ...]
    """Of libraries, driver, firmware and settings, those that changed."""
    code: tuple[FactChange, ...]
    common: CommonShift | None
    """None where some cells changed, and not all alike."""
    num_own: int
    """Cells that changed there by themselves."""


def common_steps(values: Values, change_points: ChangePoints, min_effect: float) -> list[CommonStep]:
    """Return the steps beyond the minimum effect that all arms share, in order of time.

    `change_points` returns the places of a series where a new level begins.
    """
    logs = {
        cell: {place: math.log(value) for place, value in by_place.items()}
        for cell, by_place in values.items()
        if min(by_place.values()) > 0
    }
    residuals = centred(logs)
    levels = run_levels(residuals)
    places = sorted(levels)
    starts = change_points([math.exp(levels[place]) for place in places])
    ends = [0, *starts, len(places)]
    found = []
    for start, at, end in zip(ends, starts, ends[2:], strict=False):
        shifts = dict(_shifts(residuals, places[start:at], places[at:end]))
        shift = common_shift(shifts)
        if shift is not None and abs(shift.log_ratio) > math.log1p(min_effect):
            found.append(CommonStep(places[at - 1], places[at], shift, _of_cases(shifts)))
    return found


def level_at(cell: CellKey, steps: Sequence[CommonStep], place: int) -> float:
    """Return what the steps add up to for a cell in one run, as a log; 0 before the first."""
    return math.fsum(step.of(cell) for step in steps if step.first <= place)


def history_moves(
    headers: Sequence[RunHeader], steps: Sequence[CommonStep], changes: Sequence[tuple[int, int]]
) -> list[HistoryMove]:
    """Return where the environment moved, in order of time.

    `changes` are places of the last run before and the first run after each cell's own change. Facts of runs
    between which no level changed are left alone.
    """
    by_first = {step.first: step for step in steps}
    last_of = {first: last for last, first in changes} | {step.first: step.last for step in steps}
    found = []
    for first in sorted(last_of):
        before, after = headers[last_of[first]], headers[first]
        facts, step = fact_changes([before], [after], ENVIRONMENT), by_first.get(first)
        if facts or step is not None:
            code = fact_changes([before], [after], CODE)
            num_own = sum(one == first for _, one in changes)
            found.append(HistoryMove(before, after, facts, code, step.shift if step else None, num_own))
    return found


def _shifts(
    residuals: Values, before: Sequence[int], after: Sequence[int]
) -> Iterator[tuple[CellKey, float]]:
    for cell, by_place in residuals.items():
        sides = [[by_place[place] for place in side if place in by_place] for side in (before, after)]
        if all(sides):
            yield cell, median(sides[1]) - median(sides[0])


def _of_cases(shifts: Mapping[CellKey, float]) -> dict[str, float]:
    by_case: dict[str, list[float]] = {}
    for cell, shift in shifts.items():
        by_case.setdefault(cell.case_id, []).append(shift)
    return {case: median(all_) for case, all_ in by_case.items() if len(all_) >= _MIN_ARMS_OF_A_CASE}
