"""Verdicts without statistics: bytes, which are the same each time, and how the measuring of a cell ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gqabench.results.comparison.metrics import OUTCOME
from gqabench.results.comparison.policy import Rule
from gqabench.results.comparison.verdicts import Answer, CellKey, Verdict
from gqabench.results.record import Outcome

Rows = Sequence[dict[str, Any]]


def judge_bytes(cell: CellKey, metric: str, base: Rows, new: Rows, rule: Rule) -> Verdict | None:
    """Compare an exact metric of `ok` records, one or more a side. None where neither side has it.

    The largest of each side counts; were it different from one record to the next, what the base has reached
    before is no regression.
    """
    before, after = _values(base, metric), _values(new, metric)
    if not before and not after:
        return None
    if not before or not after:
        missing = "base" if not before else "new side"
        return Verdict(
            cell=cell, metric=metric, answer=Answer.INCONCLUSIVE, reason=f"the {missing} has no value",
            base=max(before, default=None), new=max(after, default=None),
            num_base=len(before), num_new=len(after),
        )  # fmt: skip
    worst_before, worst_after = max(before), max(after)
    increase = worst_after - worst_before
    is_worse = increase > max(rule.min_increase, rule.min_effect * worst_before)
    return Verdict(
        cell=cell,
        metric=metric,
        answer=Answer.REGRESSION if is_worse else Answer.NO_REGRESSION,
        is_improvement=worst_after < min(before),
        base=worst_before,
        new=worst_after,
        change=increase / worst_before if worst_before else None,
        reason=f"{increase:+,} bytes" if increase else "equal to the byte",
        num_base=len(before),
        num_new=len(after),
    )


def judge_outcome(cell: CellKey, base: Rows, new: Rows) -> Verdict:
    """Judge whether a cell still gives an answer. No record at all on the new side is a regression."""
    before, after = _outcomes(base), _outcomes(new)
    was_ok, is_ok = before == [Outcome.OK], after == [Outcome.OK]
    answer, reason = Answer.NO_REGRESSION, "as before" if before == after else "not ok before either"
    if was_ok and not is_ok:
        answer = Answer.REGRESSION
        reason = _why(new) if after else "no longer measured"
    elif Outcome.OK in before and not is_ok:
        answer, reason = Answer.INCONCLUSIVE, "not ok each time, on the base side already"
    elif is_ok and not was_ok:
        reason = "ok now"
    return Verdict(
        cell=cell,
        metric=OUTCOME,
        answer=answer,
        is_improvement=is_ok and not was_ok,
        base=" or ".join(before),
        new=" or ".join(after) or "missing",
        num_base=len(base),
        num_new=len(new),
        reason=reason,
    )


def _values(rows: Rows, metric: str) -> list[int]:
    return [row[metric] for row in rows if row["outcome"] == Outcome.OK and row[metric] is not None]


def _outcomes(rows: Rows) -> list[str]:
    return sorted({str(row["outcome"]) for row in rows})


def _why(rows: Rows) -> str:
    reasons = [str(row["reason"]) for row in rows if row["outcome"] != Outcome.OK and row["reason"]]
    return " ".join(reasons[0].split()) if reasons else "no longer ok"
