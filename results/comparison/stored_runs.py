"""Two sides of stored runs to verdicts: bytes and outcomes exactly, times as their spread allows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import median
from typing import Any

from gqabench.results.comparison.compared_side import NotComparable, Row, Side, shared_cells
from gqabench.results.comparison.exact_verdicts import judge_bytes, judge_outcome
from gqabench.results.comparison.metrics import METRICS, Metric
from gqabench.results.comparison.notes import comparison_notes, studies_text
from gqabench.results.comparison.policy import Policy
from gqabench.results.comparison.run_spread import Judged, Values, judge_values
from gqabench.results.comparison.verdicts import Answer, CellKey, Comparison, Verdict
from gqabench.results.record import Outcome

RELEASE_LEVEL = 0.05
"""Error of calling "no regression" what is slower by the minimum effect."""
INTERVAL_LEVEL = 0.025

_TIMING_CONDITIONS = ("timing_method", "cache_state", "num_threads")
"""Record fields that must be equal for two latencies to mean the same."""
_CONDITION_FLAGS = {"throttled", "clock_changed", "background_load"}


def compare_sides(base: Side, new: Side, policy: Policy, *, across_machines: bool) -> Comparison:
    """Return the verdict of every cell of the base. Raises `NotComparable`.

    Sides of different machines are refused, or with `across_machines` held together by what means the same on
    each: bytes, outcomes, shares of the roof.
    """
    is_same_machine = _check_machines(base, new, across_machines)
    if not base.cells.keys() & new.cells.keys():
        raise NotComparable(
            f"{base.name} and {new.name}: no cell in common: not one case with the same implementation; "
            f"studies: {studies_text(base)} and {studies_text(new)}"
        )
    metrics = [
        metric
        for metric in METRICS.values()
        if (not metric.is_instead_of_times if is_same_machine else metric.is_machine_independent)
    ]
    verdicts: list[Verdict] = []
    for metric in metrics:
        if metric.is_exact:
            verdicts += _exact_verdicts(base, new, metric, policy)
        else:
            verdicts += _scattering_verdicts(base, new, metric, policy)
    return Comparison(
        base=base.name,
        new=new.name,
        verdicts=(*_outcome_verdicts(base, new), *verdicts),
        new_cells=tuple(cell for cell in new.cells if cell not in base.cells),
        notes=tuple(comparison_notes(base, new, policy, is_same_machine)),
    )


def _check_machines(base: Side, new: Side, across_machines: bool) -> bool:
    """Return whether times may be compared."""
    machines = base.machines | new.machines
    if across_machines:
        return False
    if len(machines - {None}) > 1:
        names = " and ".join(sorted(machine for machine in machines if machine is not None))
        raise NotComparable(
            f"{base.name} and {new.name}: of different machines ({names}); "
            "--across-machines compares bytes, outcomes and shares of the roof"
        )
    return None not in machines


def _outcome_verdicts(base: Side, new: Side) -> Iterator[Verdict]:
    is_partial = new.is_cut_short or base.studies != new.studies
    for cell, before, after in shared_cells(base, new):
        if after or not is_partial:
            yield judge_outcome(cell, before, after)
        elif any(row["outcome"] == Outcome.OK for row in before) and new.studies == base.studies:
            yield Verdict(
                cell=cell, metric="outcome", answer=Answer.INCONCLUSIVE, base="ok", new="missing",
                num_base=len(before), reason="the new side was cut short before it",
            )  # fmt: skip


def _exact_verdicts(base: Side, new: Side, metric: Metric, policy: Policy) -> Iterator[Verdict]:
    for cell, before, after in _both_ok(base, new):
        rule = policy.rule(metric.column, before[0])
        if rule is None:
            continue
        verdict = judge_bytes(cell, metric.column, before, after, rule)
        if verdict is None:
            continue
        if metric.is_by_thread and (why := _difference(before, after, "num_threads")) is not None:
            verdict = replace(verdict, answer=Answer.INCONCLUSIVE, is_improvement=False, reason=why)
        yield verdict


def _scattering_verdicts(base: Side, new: Side, metric: Metric, policy: Policy) -> list[Verdict]:
    """Judge one metric that scatters, with the false discovery rate controlled over all its cells."""
    from scipy.stats import false_discovery_control

    values: dict[CellKey, Values] = {}
    rows: dict[CellKey, tuple[list[Row], list[Row]]] = {}
    settled_ones: list[Verdict] = []
    for cell, all_before, all_after in _both_ok(base, new):
        rule = policy.rule(metric.column, all_before[0])
        before, after = _measured(all_before, metric), _measured(all_after, metric)
        if rule is None or not before:
            continue
        if not after:
            settled_ones.append(_without_value(cell, before, metric))
            continue
        if (settled := _without_test(cell, before, after, metric)) is not None:
            settled_ones.append(settled)
            continue
        rows[cell] = (before, after)
        values[cell] = _values(before, after, metric, rule.min_effect)
    if not values:
        return settled_ones
    judged = judge_values(values, policy.assumed_run_spread, policy.false_discovery_rate)
    worse = false_discovery_control([one.p_worse for one in judged.values()])
    better = false_discovery_control([one.p_better for one in judged.values()])
    return settled_ones + [
        _verdict(
            cell, metric, values[cell], one, (float(worse[place]), float(better[place])), rows[cell], policy
        )
        for place, (cell, one) in enumerate(judged.items())
    ]


def _verdict(
    cell: CellKey,
    metric: Metric,
    values: Values,
    judged: Judged,
    adjusted: tuple[float, float],
    rows: tuple[list[Row], list[Row]],
    policy: Policy,
) -> Verdict:
    p_worse, p_better = adjusted
    is_single = values.freedom == 0
    upper = judged.bound(RELEASE_LEVEL, 1)
    if p_worse <= policy.false_discovery_rate:
        answer, reason = Answer.REGRESSION, "worse beyond the minimum effect and the spread of the runs"
        if is_single:
            reason = "worse than one run a side explains"
    elif upper < values.point or p_better <= policy.false_discovery_rate:
        answer, reason = Answer.NO_REGRESSION, f"less than {values.min_effect:.1%} worse"
    else:
        answer = Answer.INCONCLUSIVE
        reason = (
            "one run a side says nothing about the spread of runs" if is_single else "runs scatter too much"
        )
    sign = -1 if metric.higher_is_better else 1
    ends = sorted(math.expm1(sign * judged.bound(INTERVAL_LEVEL, side)) for side in (-1, 1))
    return Verdict(
        cell=cell,
        metric=metric.column,
        answer=answer,
        is_improvement=answer == Answer.NO_REGRESSION and p_better <= policy.false_discovery_rate,
        base=median(row[metric.column] for row in rows[0]),
        new=median(row[metric.column] for row in rows[1]),
        change=math.expm1(sign * judged.log_ratio),
        change_low=ends[0],
        change_high=ends[1],
        min_effect=values.min_effect,
        smallest_detectable_change=math.expm1(judged.detectable),
        p_value=p_worse,
        num_base=len(rows[0]),
        num_new=len(rows[1]),
        reason=reason,
    )


def _without_test(cell: CellKey, before: list[Row], after: list[Row], metric: Metric) -> Verdict | None:
    """Return the verdict where no test is needed, or none is possible."""
    is_same = _identities(before, metric) == _identities(after, metric)
    why = "the same records on both sides" if is_same else _why_not(before, after, metric)
    if why is None:
        return None
    base, new = (median(row[metric.column] for row in rows) for rows in (before, after))
    return Verdict(
        cell=cell,
        metric=metric.column,
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
        metric=metric.column,
        answer=Answer.INCONCLUSIVE,
        base=median(row[metric.column] for row in before),
        num_base=len(before),
        reason="the new side has no value",
    )


def _identities(rows: list[Row], metric: Metric) -> list[tuple[str, float]]:
    return sorted((row["run_id"], row[metric.column]) for row in rows)


def _both_ok(base: Side, new: Side) -> Iterator[tuple[CellKey, list[Row], list[Row]]]:
    for cell, before, after in shared_cells(base, new):
        ok_before, ok_after = (
            [row for row in rows if row["outcome"] == Outcome.OK] for rows in (before, after)
        )
        if ok_before and ok_after:
            yield cell, ok_before, ok_after


def _measured(rows: list[Row], metric: Metric) -> list[Row]:
    return [row for row in rows if row[metric.column] is not None and row[metric.column] > 0]


def _values(before: list[Row], after: list[Row], metric: Metric, min_effect: float) -> Values:
    sign = -1 if metric.higher_is_better else 1
    base, new = (tuple(sign * math.log(row[metric.column]) for row in rows) for rows in (before, after))
    return Values(base, new, max(_within(row) for row in (*before, *after)), min_effect)


def _within(row: Mapping[str, Any]) -> float:
    """Return the standard error of a run's log median by its own 95 % interval; 0 without one."""
    low, high = row["latency_ci_low_ms"], row["latency_ci_high_ms"]
    if low is None or high is None or not 0 < low <= high:
        return 0.0
    return math.log(high / low) / (2 * 1.96)


def _why_not(before: list[Row], after: list[Row], metric: Metric) -> str | None:
    """Return why times of these records must not be compared; None where they may."""
    for key in _TIMING_CONDITIONS if metric.unit == "ms" else ():
        if (difference := _difference(before, after, key)) is not None:
            return difference
    flags = [
        set.intersection(*(set(row["flags"] or []) for row in rows)) & _CONDITION_FLAGS
        for rows in (before, after)
    ]
    if len(before) == len(after) == 1 and flags[0] != flags[1]:
        return f"conditions differed: {', '.join(sorted(flags[0] ^ flags[1]))} on one side"
    return None


def _difference(before: list[Row], after: list[Row], key: str) -> str | None:
    """Return what differs between the sides in a field; None where nothing does, or it is not recorded."""
    states = [{row[key] for row in rows} for rows in (before, after)]
    if states[0] == states[1] or None in states[0] | states[1]:
        return None
    return f"{key} differs: " + " and ".join(", ".join(sorted(map(str, one))) for one in states)
