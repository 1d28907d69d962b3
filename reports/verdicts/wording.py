"""A verdict in words and numbers, the same in every output."""

from __future__ import annotations

from collections.abc import Sequence

from gqabench.reports.units import (
    MISSING,
    bytes_text,
    digits_text,
    duration_text,
    energy_text,
    plural,
)
from gqabench.reports.verdicts.changes import change_text
from gqabench.reports.verdicts.moved_environment import moved_text
from gqabench.results.comparison.metrics import JUDGED_METRICS, LATENCY
from gqabench.results.comparison.verdicts import Answer, Comparison, Verdict

COLUMNS = ("answer", "cell", "problem", "metric", "base", "new", "change", "95 % interval", "why")


def summary(comparison: Comparison) -> str:
    """Return one line: how many cells, and what of them; where their environment moved, that."""
    cells = {verdict.cell for verdict in comparison.verdicts}
    bad = {verdict.cell for verdict in comparison.regressions}
    unsure = {verdict.cell for verdict in comparison.inconclusive} - bad
    better = {verdict.cell for verdict in comparison.improvements} - bad
    parts = [f"{plural(len(bad), 'regression')}", f"{len(unsure):,} inconclusive", f"{len(better):,} better"]
    parts.append(f"{len(cells - bad - unsure - better):,} as before")
    new = f", {plural(len(comparison.new_cells), 'new cell')}" if comparison.new_cells else ""
    counts = f"{comparison.answer}: {plural(len(cells), 'cell')}: {', '.join(parts)}{new}"
    moved = [] if (text := moved_text(comparison)) is None else [text]
    return "; ".join([counts, *_suspicions(comparison), *moved])


def _suspicions(comparison: Comparison) -> list[str]:
    """Return a phrase for each metric of which some cell may be worse: by estimate, but not by its bound."""
    phrases = []
    has_moved = comparison.environment_move is not None and comparison.environment_move.common is not None
    for metric in JUDGED_METRICS.values():
        found = [one for one in comparison.inconclusive if one.metric == metric.name and _most_worse(one)]
        if not found or (has_moved and metric is LATENCY):  # the environment made it slower, as is said
            continue
        worst = max(found, key=lambda one: _most_worse(one) or 0.0)
        what = "slower" if metric.unit == "ms" else "worse"
        whose = "" if metric is LATENCY else f" in {metric.name}"
        many = "one cell may be" if len(found) == 1 else f"{len(found):,} cells may be"
        by = change_text(_most_worse(worst)).lstrip("+")
        which = worst.cell.label if len(found) == 1 else f"the most {worst.cell.label}"
        phrases.append(f"{many} {what}{whose} by up to {by}: {which}")
    return phrases


def _most_worse(verdict: Verdict) -> float | None:
    """Return how much worse a cell may be; None unless its estimate exceeds the minimum effect."""
    low, high, change = verdict.change_low, verdict.change_high, verdict.change
    if low is None or high is None or change is None:
        return None
    worse, most = (change, high) if not JUDGED_METRICS[verdict.metric].higher_is_better else (-change, -low)
    return most if worse > (verdict.min_effect or 0.0) else None


def worth_showing(comparison: Comparison) -> list[Verdict]:
    """Return regressions, then what is inconclusive, then what is better; what did not change is left out."""
    better = [verdict for verdict in comparison.improvements if verdict.answer == Answer.NO_REGRESSION]
    return [*_worst_first(comparison.regressions), *_worst_first(comparison.inconclusive), *better]


def cells_of_table(verdict: Verdict) -> tuple[str, ...]:
    """Return the texts of one row, as `COLUMNS` names them."""
    return (
        answer_text(verdict),
        verdict.cell.arm,
        verdict.cell.problem or verdict.cell.case_id,
        verdict.metric,
        value_text(verdict, verdict.base),
        value_text(verdict, verdict.new),
        change_text(verdict.change),
        change_interval_text(verdict),
        why(verdict),
    )


def answer_text(verdict: Verdict) -> str:
    """Return the answer; of what is better, that."""
    return "better" if verdict.is_improvement else verdict.answer.value


def sentence(verdict: Verdict) -> str:
    """Return one line that stands by itself."""
    values = f"{value_text(verdict, verdict.base)} to {value_text(verdict, verdict.new)}"
    change = "" if verdict.change is None else f" ({change_text(verdict.change)})"
    return f"{verdict.cell.label}: {verdict.metric} {values}{change}: {why(verdict)}"


def why(verdict: Verdict) -> str:
    """Return the reason; of an inconclusive one also what would have been detected."""
    detectable = verdict.smallest_detectable_change
    if verdict.answer != Answer.INCONCLUSIVE or detectable is None:
        return verdict.reason
    return f"{verdict.reason}; a change of {change_text(detectable)} would have been detected"


def value_text(verdict: Verdict, value: float | int | str | None) -> str:
    """Return a value of the verdict's metric with its unit."""
    if value is None or isinstance(value, str):
        return value or MISSING
    unit = JUDGED_METRICS[verdict.metric].unit
    if unit == "bytes" and verdict.base != verdict.new and verdict.base is not None:
        return f"{value:,} B"  # every byte counts
    texts = {"bytes": bytes_text, "ms": duration_text, "J": energy_text}
    return texts[unit](value) if unit in texts else digits_text(value)


def change_interval_text(verdict: Verdict) -> str:
    """Return both ends of the 95 % interval of the change."""
    low, high = verdict.change_low, verdict.change_high
    return MISSING if low is None or high is None else f"{change_text(low)} to {change_text(high)}"


def _worst_first(verdicts: Sequence[Verdict]) -> list[Verdict]:
    return sorted(verdicts, key=lambda one: -abs(one.change) if one.change is not None else float("-inf"))
