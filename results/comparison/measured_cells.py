"""The cells of two sides whose values of a metric can be put to a test, and the verdicts that need none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from gqabench.results.comparison.compared_side import Row, Side, shared_cells
from gqabench.results.comparison.metrics import Metric
from gqabench.results.comparison.policy import Policy
from gqabench.results.comparison.run_spread import Values
from gqabench.results.comparison.verdicts import Answer, CellKey, Verdict
from gqabench.results.record import Outcome

_TIMING_CONDITIONS = ("timing_method", "cache_state", "num_threads")
"""Record fields that must be equal for two latencies to mean the same."""
_CONDITION_FLAGS = {"throttled", "clock_changed", "background_load", "shared_cores"}


@dataclass(frozen=True)
class CellValues:
    """One cell's values of one metric, in its own unit, by run."""

    base: Mapping[str, float]
    new: Mapping[str, float]
    within: float
    """Standard error of a log value by the samples within its run; 0 where there is no interval."""
    min_effect: float
    row: Row
    """A record of the base, by which policies tell groups of cells."""

    def logs(self, metric: Metric) -> Values:
        """Return logs of the values; larger is worse."""
        sign = -1 if metric.higher_is_better else 1
        base, new = (tuple(sign * math.log(one) for one in side.values()) for side in (self.base, self.new))
        return Values(base, new, self.within, self.min_effect)


@dataclass(frozen=True)
class Measured:
    """Cells to test, and the verdicts of the others."""

    cells: Mapping[CellKey, CellValues]
    settled: tuple[Verdict, ...]


def measured_cells(base: Side, new: Side, metric: Metric, policy: Policy) -> Measured:
    """Return what the policy wants judged of a metric that scatters."""
    cells: dict[CellKey, CellValues] = {}
    settled: list[Verdict] = []
    for cell, all_before, all_after in both_ok(base, new):
        rule = policy.rule(metric.name, all_before[0])
        before, after = _with_value(all_before, metric), _with_value(all_after, metric)
        if rule is None or not before:
            continue
        if not after:
            settled.append(_without_value(cell, before, metric))
        elif (verdict := _without_test(cell, before, after, metric)) is not None:
            settled.append(verdict)
        else:
            within = max(_within(row) for row in (*before, *after))
            by_run = [{row["run_id"]: row[metric.column] for row in rows} for rows in (before, after)]
            cells[cell] = CellValues(by_run[0], by_run[1], within, rule.min_effect, before[0])
    return Measured(cells, tuple(settled))


def both_ok(base: Side, new: Side) -> Iterator[tuple[CellKey, list[Row], list[Row]]]:
    """Yield the cells that gave an answer on both sides, with the records of it."""
    for cell, before, after in shared_cells(base, new):
        ok_before, ok_after = (
            [row for row in rows if row["outcome"] == Outcome.OK] for rows in (before, after)
        )
        if ok_before and ok_after:
            yield cell, ok_before, ok_after


def difference(before: list[Row], after: list[Row], key: str) -> str | None:
    """Return what differs between the sides in a field; None where nothing does, or it is not recorded."""
    states = [{row[key] for row in rows} for rows in (before, after)]
    if states[0] == states[1] or None in states[0] | states[1]:
        return None
    return f"{key} differs: " + " and ".join(", ".join(sorted(map(str, one))) for one in states)


def _without_test(cell: CellKey, before: list[Row], after: list[Row], metric: Metric) -> Verdict | None:
    """Return the verdict where no test is needed, or none is possible."""
    is_same = _identities(before, metric) == _identities(after, metric)
    why = "the same records on both sides" if is_same else _why_not(before, after, metric)
    if why is None:
        return None
    base, new = (median(row[metric.column] for row in rows) for rows in (before, after))
    return Verdict(
        cell=cell,
        metric=metric.name,
        answer=Answer.NO_REGRESSION if is_same else Answer.INCONCLUSIVE,
        base=base,
        new=new,
        change=new / base - 1,
        num_base=len(before),
        num_new=len(after),
        reason=why,
    )


def _without_value(cell: CellKey, before: list[Row], metric: Metric) -> Verdict:
    """Judge a cell that ran, and whose time the new side lost: not as before, and no known change."""
    return Verdict(
        cell=cell,
        metric=metric.name,
        answer=Answer.INCONCLUSIVE,
        base=median(row[metric.column] for row in before),
        num_base=len(before),
        reason="the new side has no value",
    )


def _identities(rows: list[Row], metric: Metric) -> list[tuple[str, float]]:
    return sorted((row["run_id"], row[metric.column]) for row in rows)


def _with_value(rows: list[Row], metric: Metric) -> list[Row]:
    return [row for row in rows if row[metric.column] is not None and row[metric.column] > 0]


def _within(row: Mapping[str, Any]) -> float:
    """Return the standard error of a run's log median by its own 95 % interval; 0 without one."""
    low, high = row["latency_ci_low_ms"], row["latency_ci_high_ms"]
    if low is None or high is None or not 0 < low <= high:
        return 0.0
    return math.log(high / low) / (2 * 1.96)


def _why_not(before: list[Row], after: list[Row], metric: Metric) -> str | None:
    """Return why times of these records must not be compared; None where they may."""
    for key in _TIMING_CONDITIONS if metric.unit == "ms" else ():
        if (why := difference(before, after, key)) is not None:
            return why
    flags = [
        set.intersection(*(set(row["flags"] or []) for row in rows)) & _CONDITION_FLAGS
        for rows in (before, after)
    ]
    if len(before) == len(after) == 1 and flags[0] != flags[1]:
        return f"conditions differed: {', '.join(sorted(flags[0] ^ flags[1]))} on one side"
    return None
