"""Many runs of one machine in time: each cell's values, where their level changed, and with which revision.

The change points of metrics that scatter are found by PELT (Killick, Fearnhead and Eckley, JASA 107 (2012)
1590-1598) of the library ruptures, on log values in units of their own scatter. The cost is the sum of
absolute deviations from each segment's median, so that one disturbed run moves nothing; each change costs
`3 ln n`, and a level has two runs or more: a change in the newest run alone is one when the next run confirms
it. In 150 simulations each, with one per cent of scatter and a disturbance in every twentieth run, 2, 2 and
1 % of histories of 8, 12 and 30 runs without a change showed one. A 5 % step in the middle was found in 79,
89 and 100 %, and one of 15 % two runs before the end in 96, 100 and 99 %, nine times of ten between the right
two runs. Of exact metrics every difference is a change.

What all arms did alike from one run to the next is said once, and taken out of the cells' values before their
own changes are looked for (`gqabench.results.environment_history`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from gqabench.results.comparison.compared_side import NotComparable, Row
from gqabench.results.comparison.metrics import METRICS
from gqabench.results.comparison.verdicts import CellKey, cell_key
from gqabench.results.environment_history import (
    CommonStep,
    HistoryMove,
    common_steps,
    history_moves,
    level_at,
)
from gqabench.results.record import Outcome
from gqabench.results.store.load import load_runs
from gqabench.results.store.machine_identity import machine_name, revision_text
from gqabench.results.store.run_folder import RunHeader

MIN_RUNS = 6
"""Fewer tell no level from scatter."""
_MIN_SEGMENT = 2
_PENALTY = 3.0
_NORMAL_MAD = 1.4826


@dataclass(frozen=True)
class Point:
    """One run's value of one cell."""

    run_id: str
    created_at: str
    revision: str
    """`unknown` where the code's git revision is not recorded."""
    value: float


@dataclass(frozen=True)
class Change:
    """The level of a cell is another from a run on."""

    first: Point
    """The first run of the new level."""
    last: Point
    """The last one of the old level: what lies between the two revisions did it."""
    before: float
    after: float
    shared: float = 0.0
    """The relative change that all arms made at the same run: the environment's part of it."""

    @property
    def relative(self) -> float:
        """The cell's own part: 0.05 is 5 % more; what begins at nothing is infinitely more."""
        return self.after / self.before / (1 + self.shared) - 1 if self.before else math.inf


@dataclass(frozen=True)
class Trend:
    """One cell's values of one metric in order of time, and its changes."""

    cell: CellKey
    metric: str
    points: tuple[Point, ...]
    changes: tuple[Change, ...]
    moved_at: tuple[str, ...] = ()
    """Runs of it from which all arms are on another level."""


@dataclass(frozen=True)
class History:
    """All cells over the runs of one machine, and where their environment moved."""

    trends: list[Trend]
    """The largest changes first."""
    moves: list[HistoryMove]
    """In order of time."""


def load_history(paths: Sequence[str]) -> tuple[list[RunHeader], list[Row]]:
    """Return headers in order of time, and their records. Raises `UnreadableRun`, or `NotComparable`."""
    loaded = [load_runs(path) for path in paths]
    headers = {header.run_id: header for one in loaded for header in one.headers}
    rows = [row for one in loaded for row in one.rows if row["run_id"] in headers]
    named = " ".join(paths)
    if not headers or not rows:
        raise NotComparable(f"{named}: no run with records and a header; name folders of runs")
    machines = {machine_name(header) or "unknown" for header in headers.values()}
    if len(machines) > 1:
        raise NotComparable(
            f"{named}: of different machines: {', '.join(sorted(machines))}; name runs of one"
        )
    return sorted(headers.values(), key=lambda header: header.created_at), rows


def history(headers: Sequence[RunHeader], rows: Sequence[Row], metric: str, min_effect: float) -> History:
    """Return a trend for each cell with two values and more, and the moves of the environment."""
    order = {header.run_id: place for place, header in enumerate(headers)}
    values: dict[CellKey, dict[int, float]] = {}
    for row in rows:
        if row["outcome"] == Outcome.OK and row[metric] is not None:
            values.setdefault(cell_key(row), {})[order[row["run_id"]]] = row[metric]
    several = {cell: by_place for cell, by_place in values.items() if len(by_place) > 1}
    is_exact = METRICS[metric].is_exact
    steps = [] if is_exact else common_steps(several, change_points, min_effect)
    points = {
        cell: [_point(headers[place], one[place]) for place in sorted(one)] for cell, one in several.items()
    }
    trends = [
        Trend(
            cell,
            metric,
            tuple(points[cell]),
            tuple(_changes(points[cell], _levels(cell, steps, sorted(by_place)), is_exact, min_effect)),
            tuple(_moved_at(headers, steps, sorted(by_place))),
        )
        for cell, by_place in several.items()
    ]
    own = [(order[one.last.run_id], order[one.first.run_id]) for trend in trends for one in trend.changes]
    return History(
        sorted(trends, key=lambda trend: -max((abs(one.relative) for one in trend.changes), default=0.0)),
        history_moves(headers, steps, own),
    )


def change_points(values: Sequence[float]) -> list[int]:
    """Return places where a new level begins, of values that scatter.

    None for fewer than `MIN_RUNS`, nor where a value is not positive: energy beside an idle power that moved.
    """
    if len(values) < MIN_RUNS or min(values) <= 0:
        return []
    from ruptures import Pelt  # an extra: only `gqabench history` needs it

    logs = np.log(np.asarray(values, dtype=float))
    steps = np.diff(logs)
    scatter = _NORMAL_MAD * float(np.median(np.abs(steps - np.median(steps)))) / math.sqrt(2)
    if scatter == 0:
        return [int(place) + 1 for place in np.flatnonzero(steps)]
    signal = ((logs - np.median(logs)) / scatter).reshape(-1, 1)
    search = Pelt(model="l1", min_size=_MIN_SEGMENT, jump=1).fit(signal)
    return [int(end) for end in search.predict(pen=_PENALTY * math.log(len(values)))[:-1]]


def _changes(
    points: Sequence[Point], levels: Sequence[float], is_exact: bool, min_effect: float
) -> Iterator[Change]:
    """Yield a cell's own changes. `levels` are the logs of what all arms did, of each point."""
    values = [point.value / math.exp(level) for point, level in zip(points, levels, strict=True)]
    if is_exact:
        places = [place for place in range(1, len(values)) if values[place] != values[place - 1]]
    else:
        places = change_points(values)
    ends = [0, *places, len(values)]
    for start, place, end in zip(ends, places, ends[2:], strict=False):
        before, after = median(values[start:place]), median(values[place:end])
        if is_exact or abs(math.log(after / before)) > math.log1p(min_effect):
            last, first = levels[place - 1], levels[place]
            yield Change(
                points[place],
                points[place - 1],
                before * math.exp(last),
                after * math.exp(first),
                math.expm1(first - last),
            )


def _levels(cell: CellKey, steps: Sequence[CommonStep], places: Sequence[int]) -> list[float]:
    return [level_at(cell, steps, place) for place in places]


def _moved_at(
    headers: Sequence[RunHeader], steps: Sequence[CommonStep], places: Sequence[int]
) -> Iterator[str]:
    """Yield the first run of a cell at or after each step, of those that it has runs before."""
    for step in steps:
        after = [place for place in places if place >= step.first]
        if after and places[0] < step.first:
            yield headers[after[0]].run_id


def _point(header: RunHeader, value: float) -> Point:
    return Point(header.run_id, header.created_at, revision_text(header) or "unknown", value)
