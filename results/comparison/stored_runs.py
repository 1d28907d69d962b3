"""Two sides of stored runs to verdicts: bytes and outcomes exactly, times as their spread allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gqabench.results.comparison.compared_side import NotComparable, Side, shared_cells
from gqabench.results.comparison.environment_verdicts import JudgedMove, judge_move
from gqabench.results.comparison.exact_verdicts import judge_bytes, judge_outcome
from gqabench.results.comparison.measured_cells import both_ok, difference, measured_cells
from gqabench.results.comparison.metrics import LATENCY, METRICS, Metric
from gqabench.results.comparison.notes import comparison_notes, studies_text
from gqabench.results.comparison.policy import Policy
from gqabench.results.comparison.scattering_verdicts import judge_cells
from gqabench.results.comparison.verdicts import Answer, Comparison, Verdict
from gqabench.results.record import Outcome


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
    move: JudgedMove | None = None
    for metric in metrics:
        if metric.is_exact:
            verdicts += _exact_verdicts(base, new, metric, policy)
            continue
        measured = measured_cells(base, new, metric, policy)
        judged = judge_cells(measured.cells, metric, policy)
        if metric is LATENCY and (move := judge_move(base, new, measured.cells, judged, policy)) is not None:
            judged = [*move.latencies, *move.relative]
        verdicts += [*measured.settled, *judged]
    return Comparison(
        base=base.name,
        new=new.name,
        verdicts=(*_outcome_verdicts(base, new), *verdicts),
        new_cells=tuple(cell for cell in new.cells if cell not in base.cells),
        notes=(*comparison_notes(base, new, policy, is_same_machine), *(move.notes if move else ())),
        environment_move=move.move if move else None,
        relative_answer=move.relative_answer if move else None,
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
    for cell, before, after in both_ok(base, new):
        rule = policy.rule(metric.column, before[0])
        if rule is None:
            continue
        verdict = judge_bytes(cell, metric.column, before, after, rule)
        if verdict is None:
            continue
        if metric.is_by_thread and (why := difference(before, after, "num_threads")) is not None:
            verdict = replace(verdict, answer=Answer.INCONCLUSIVE, is_improvement=False, reason=why)
        yield verdict
