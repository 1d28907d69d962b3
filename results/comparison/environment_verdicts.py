"""Whether the environment of two sides of stored runs moved, and what then becomes of their verdicts.

It moved where facts of the headers differ, or where all arms moved alike (`common_level`) by more than runs
scatter. With several runs a side their levels tell how runs scatter, under Student's t. With one run a side
that is assumed: two runs that differ as a whole by less are a suspicion.

A latency that became worse with all the others is nobody's regression, and no "no regression" either: it is
inconclusive, and arms are judged against each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from gqabench.results.comparison.common_level import centred, common_shift, run_levels
from gqabench.results.comparison.compared_side import Side
from gqabench.results.comparison.environment_move import (
    CODE,
    ENVIRONMENT,
    CommonChange,
    EnvironmentMove,
    fact_changes,
)
from gqabench.results.comparison.measured_cells import CellValues
from gqabench.results.comparison.metrics import LATENCY, RELATIVE_LATENCY
from gqabench.results.comparison.policy import Policy
from gqabench.results.comparison.relative_latency import references, relative_table
from gqabench.results.comparison.run_spread import SINGLE_RUN_FREEDOM, Values, t_quantile
from gqabench.results.comparison.scattering_verdicts import INTERVAL_LEVEL, judge_cells
from gqabench.results.comparison.verdicts import Answer, CellKey, Verdict, overall_answer

MOVED_LEVEL = 0.025
"""Error, to either side, of saying that all arms moved by more than the minimum effect."""

Cells = Mapping[CellKey, CellValues]
SideRun = tuple[str, str]
"""A side and a run of it: a copy of a run may stand on both."""


@dataclass(frozen=True)
class JudgedMove:
    """A moved environment, and the verdicts that follow from it."""

    move: EnvironmentMove
    latencies: tuple[Verdict, ...]
    relative: tuple[Verdict, ...]
    relative_answer: Answer | None
    notes: tuple[str, ...]


def judge_move(
    base: Side, new: Side, cells: Cells, latencies: Sequence[Verdict], policy: Policy
) -> JudgedMove | None:
    """Return what the environment did to the cells that were judged; None where it did not move."""
    move = find_move(base, new, cells, policy.assumed_run_spread)
    if move is None:
        return None
    judged = relative_verdicts(cells, move.common, policy)
    moved = [moved_with(verdict, move.common) for verdict in latencies]
    opened = {one.cell for one, before in zip(moved, latencies, strict=True) if one.answer != before.answer}
    # Of a cell whose latency has an answer, or none before either, a ratio that cannot tell says nothing.
    told = [one for one in judged if one.answer is not Answer.INCONCLUSIVE or one.cell in opened]
    return JudgedMove(
        move=move,
        latencies=tuple(moved),
        relative=tuple(told),
        relative_answer=overall_answer(told) if told else None,
        notes=tuple(_notes(cells, judged)),
    )


def find_move(base: Side, new: Side, cells: Cells, assumed_run_spread: float) -> EnvironmentMove | None:
    """Return how the environment moved, by the headers and by all arms; None where nothing says so."""
    facts, code = (fact_changes(base.headers, new.headers, kinds) for kinds in (ENVIRONMENT, CODE))
    common = common_change(cells, assumed_run_spread)
    if not facts and common is None:
        return None
    return EnvironmentMove(
        facts=facts,
        code=code,
        common=common,
        is_suspected=not facts and common is not None and not common.is_beyond_runs,
    )


def common_change(cells: Cells, assumed_run_spread: float) -> CommonChange | None:
    """Return the change that all arms share, beyond the minimum effect by more than it scatters.

    With several runs a side, their levels scatter. With one, the cells do; whether two runs of one
    environment could differ as much is judged by the spread that is assumed.
    """
    shared = common_shift({cell: one.logs(LATENCY).log_ratio for cell, one in cells.items()})
    if shared is None:
        return None
    levels = run_levels(centred(_log_table(cells)))
    of_runs = Values(
        base=tuple(level for (side, _), level in levels.items() if side == "base"),
        new=tuple(level for (side, _), level in levels.items() if side == "new"),
        within=0.0,
        min_effect=median(one.min_effect for one in cells.values()),
    )
    is_single = of_runs.freedom == 0
    if is_single:
        error, freedom = shared.cells_error, shared.num_cells - 1
    else:
        error, freedom = max(_levels_error(of_runs), shared.cells_error), of_runs.freedom
    excess = abs(shared.log_ratio) - of_runs.point
    if excess <= t_quantile(MOVED_LEVEL, freedom) * error:
        return None
    assumed = math.hypot(assumed_run_spread * math.sqrt(2), error)
    width = t_quantile(INTERVAL_LEVEL, freedom) * error
    return CommonChange(
        change=math.expm1(shared.log_ratio),
        change_low=math.expm1(shared.log_ratio - width),
        change_high=math.expm1(shared.log_ratio + width),
        num_moved=shared.num_moved,
        num_cells=shared.num_cells,
        num_arms=shared.num_arms,
        is_beyond_runs=not is_single or excess > t_quantile(MOVED_LEVEL, SINGLE_RUN_FREEDOM) * assumed,
    )


def relative_verdicts(cells: Cells, common: CommonChange | None, policy: Policy) -> list[Verdict]:
    """Judge each cell's latency relative to the arms that it is compared with."""
    relative = _relative_cells(cells, policy)
    compared_with = references(cells.keys())
    by_itself = {one.cell: one for one in judge_cells(_less_common(cells, common), LATENCY, policy)}
    verdicts = []
    for verdict in judge_cells(relative, RELATIVE_LATENCY, policy):
        others = "arms of its case" if compared_with[verdict.cell].is_of_case else "cells of its run"
        least = relative[verdict.cell].min_effect
        verdicts.append(_against_the_others(verdict, by_itself[verdict.cell], least, others))
    return verdicts


def moved_with(verdict: Verdict, common: CommonChange | None) -> Verdict:
    """Return a latency's verdict where all arms moved: what moved with them is not called its own."""
    if common is None:
        return verdict
    if common.change > 0 and verdict.answer is Answer.REGRESSION:
        return replace(
            verdict,
            answer=Answer.INCONCLUSIVE,
            smallest_detectable_change=None,
            reason="slower together with all arms: judged against the others",
        )
    if common.change < 0 and verdict.is_improvement:
        return replace(
            verdict, is_improvement=False, reason="faster together with all arms: judged against the others"
        )
    return verdict


def _less_common(cells: Cells, common: CommonChange | None) -> dict[CellKey, CellValues]:
    """Return the latencies as they were, had the environment not moved."""
    factor = 1.0 if common is None else 1 + common.change
    return {
        cell: replace(one, new={run: value / factor for run, value in one.new.items()})
        for cell, one in cells.items()
    }


def _against_the_others(verdict: Verdict, by_itself: Verdict, min_effect: float, others: str) -> Verdict:
    """Return the verdict in words of ratios. What only the others did is no change of this cell.

    `by_itself` is the verdict of the cell's latency less what all arms did. With one run a side it has to say
    the same: a ratio that stands out may be the others', whose processes scatter as well.
    """
    assert by_itself.change is not None
    is_single = verdict.num_base == verdict.num_new == 1
    if verdict.answer is Answer.REGRESSION and by_itself.change <= min_effect:
        reason = f"not slower by itself: the other {others} became faster"
        return replace(verdict, answer=Answer.NO_REGRESSION, reason=reason)
    if verdict.answer is Answer.REGRESSION and is_single and by_itself.answer is not Answer.REGRESSION:
        reason = "one run a side says nothing about the spread of runs"
        return replace(verdict, answer=Answer.INCONCLUSIVE, reason=reason)
    if verdict.is_improvement and by_itself.change >= -min_effect:
        reason = f"not faster by itself: the other {others} became slower"
        return replace(verdict, is_improvement=False, reason=reason)
    return replace(verdict, reason=f"{verdict.reason}, against the other {others}")


def _relative_cells(cells: Cells, policy: Policy) -> dict[CellKey, CellValues]:
    """Return the relative latencies that the policy wants judged, where both sides have one."""
    within = {cell: one.within for cell, one in cells.items()}
    compared_with = references(cells.keys())
    relative = {}
    for cell, by_run in relative_table(_log_table(cells)).items():
        rule = policy.rule(RELATIVE_LATENCY.name, cells[cell].row)
        base, new = (
            {run: math.exp(value) for (side, run), value in by_run.items() if side == wanted}
            for wanted in ("base", "new")
        )
        if rule is not None and base and new:
            error = math.hypot(within[cell], compared_with[cell].error(cell, within))
            relative[cell] = CellValues(base, new, error, rule.min_effect, cells[cell].row)
    return relative


def _log_table(cells: Cells) -> dict[CellKey, dict[SideRun, float]]:
    return {
        cell: {
            (side, run): math.log(value)
            for side, values in (("base", one.base), ("new", one.new))
            for run, value in values.items()
        }
        for cell, one in cells.items()
    }


def _levels_error(of_runs: Values) -> float:
    return math.sqrt(of_runs.residual_variance() * (1 / len(of_runs.base) + 1 / len(of_runs.new)))


def _notes(cells: Cells, judged: Sequence[Verdict]) -> list[str]:
    if not judged:
        why = "no rule for it" if references(cells.keys()) else "there is one arm"
        return [f"arms are not judged against each other: {why}"] if cells else []
    alone = sum(not reference.is_of_case for reference in references(cells.keys()).values())
    if not alone:
        return []
    return [
        f"{alone} of the {len(cells)} cells are alone in their case: compared with all cells of their runs"
    ]
