"""Tables of the report as plain data, shared by the page and by Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from gqabench.reports.frames.doubts import fastest_rows
from gqabench.reports.frames.slices import axis_text, axis_values, varies
from gqabench.reports.frames.tidy import failed_rows, ok_rows
from gqabench.reports.units import (
    MISSING,
    count_text,
    error_text,
    interval_text,
    is_missing,
    plural,
    roof_text,
    value_text,
)
from gqabench.results.axes import AXES, HEADING_KEYS, PROBLEM_KEYS
from gqabench.results.columns import Column as Measure
from gqabench.results.columns import shown_columns
from gqabench.results.entries import Shown
from gqabench.results.flags import FLAG_MEANINGS

MAX_RESULT_ROWS = 500
MAX_FAILURE_ROWS = 200
MAX_REASON = 1500
MAX_EXAMPLES = 3


_HEADING = ("stage", *HEADING_KEYS)
_ALWAYS_NAMED = {"stage", "num_kv_heads", "kv_len", "batch_size"}


@dataclass(frozen=True)
class Column:
    """A heading; numbers stand at the right."""

    title: str
    is_number: bool = False


@dataclass(frozen=True)
class Cell:
    """Text as shown, and what a reader sees when pointing at it."""

    text: str
    strong: bool = False
    hint: str = ""


@dataclass(frozen=True)
class Group:
    """Rows below a heading of their own (empty for none)."""

    title: str
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Table:
    """Groups of rows under columns."""

    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    note: str = ""
    """What holds for all rows, and what is left out."""

    @property
    def num_rows(self) -> int:
        return sum(len(group.rows) for group in self.groups)


_TEXTS: Mapping[str, Callable[[Any], str]] = {
    "latency_ci_low_ms": lambda row: interval_text(row.latency_ci_low_ms, row.latency_ci_high_ms),
    "max_error": lambda row: _error_of_budget(row.max_error, row.error_budget),
    "num_checked_queries": lambda row: _checked_text(row),
}
"""Columns whose text is of more than their own value, from a row of the frame."""

_NEEDS = {"num_checked_queries": "num_sampled_queries"}
"""The column of the frame without which one of the record is not shown, where it is another one."""


def results_table(frame: pd.DataFrame, max_rows: int = MAX_RESULT_ROWS) -> Table:
    """Return the `ok` rows of a tidy frame by problem, the fastest first.

    A problem's best latency is strong, and so are those whose intervals overlap its own.
    """
    rows = ok_rows(frame)
    heading = [axis for axis in _HEADING if varies(rows, axis) or axis in _ALWAYS_NAMED]
    measures = shown_measures(rows)
    heads = rows[["num_q_heads", "num_kv_heads"]]
    ordered = _in_reading_order(rows)
    best = set(fastest_rows(ordered, ordered["problem"]).index)
    shown = ordered.head(max_rows)
    groups = []
    for _, same in groupby(shown.itertuples(), key=lambda row: row.problem):
        of_problem: list[Any] = list(same)
        cells = tuple(_result_row(row, measures, row.Index in best) for row in of_problem)
        groups.append(Group(problem_text(rows.loc[of_problem[0].Index], heading, heads), cells))
    columns = (Column("impl"), *(Column(measure.title, measure.type.is_number) for measure in measures))
    return Table(columns, tuple(groups), _results_note(rows, heading, len(shown)))


def shown_measures(rows: pd.DataFrame) -> list[Measure]:
    """Return the columns of the table of results that some rows have a value of."""
    measures = [
        measure
        for measure in shown_columns(Shown.RESULTS)
        if _has_any(rows, _NEEDS.get(measure.name, measure.name))
    ]
    if any(measure.name == "error_ratio" for measure in measures):  # by all criteria, that of max_error too
        measures = [measure for measure in measures if measure.name != "max_error"]
    return measures


def _in_reading_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows by problem, the fastest first, with the place of their `problem`.

    Problems stand by stage, model and shape, from MHA down, then by size.
    """
    order = ["stage", *AXES]
    ranks = {}
    for axis in order:
        values = axis_values(rows, axis)
        ranks[axis] = rows[axis].map({value: rank for rank, value in enumerate(values) if value is not None})
    ranked = rows.loc[
        pd.DataFrame(ranks, index=rows.index).fillna(-1).sort_values(order, kind="stable").index
    ]
    problem = ranked.groupby(list(PROBLEM_KEYS), dropna=False, sort=False).ngroup()
    return ranked.assign(problem=problem).sort_values(["problem", "latency_ms"], kind="stable")


def problem_text(row: Any, axes: Sequence[str], frame: pd.DataFrame) -> str:
    """Return the values of some axes of one problem: `decode · 8 KV heads (GQA) · batch 1 · context 4K`."""
    texts = []
    for axis in axes:
        value = row[axis]
        if axis == "q_len" and value in {1, row["kv_len"]}:
            continue  # the phase says it
        if is_missing(value) and axis in {"model", "stage"}:
            continue
        if axis == "num_kv_heads" and not is_missing(value):
            frame = frame[frame["num_q_heads"] == row["num_q_heads"]]
        texts.append(axis_text(axis, value, frame))
    return " · ".join(texts)


def _result_row(row: Any, measures: Sequence[Measure], is_best: bool) -> tuple[Cell, ...]:
    cells = [Cell(str(row.arm), hint=str(row.impl) if row.impl != row.arm else "")]
    for measure in measures:
        strong = is_best and measure.name == "latency_ms"
        cells.append(Cell(_text(measure, row), strong=strong, hint=_hint(row, measure.name)))
    return tuple(cells)


def _text(measure: Measure, row: Any) -> str:
    if measure.name in _TEXTS:
        return _TEXTS[measure.name](row)
    return value_text(measure.type, measure.unit, getattr(row, measure.name))


def _hint(row: Any, column: str) -> str:
    if column == "roof_fraction" and row.roof is not None:
        return f"of the {roof_text(row.roof)}"
    if column == "latency_ms" and not is_missing(row.num_samples):
        return f"median of {plural(int(row.num_samples), 'sample')}"
    return ""


def _results_note(rows: pd.DataFrame, heading: Sequence[str], num_shown: int) -> str:
    if len(rows) == 0:
        return "No row has the outcome ok."
    same = [axis for axis in _HEADING if axis not in {*heading, "q_len"} and _is_worth_saying(rows, axis)]
    texts = [axis_text(axis, rows[axis].iloc[0]) for axis in same]
    notes = [f"In all rows: {', '.join(texts)}."] if texts else []
    if num_shown < len(rows):
        notes.append(
            f"The first {num_shown:,} of {plural(len(rows), 'row')} by problem; "
            f"{len(rows) - num_shown:,} are left out here, and the Parquet file of the run holds all."
        )
    return " ".join(notes)


def _is_worth_saying(rows: pd.DataFrame, axis: str) -> bool:
    """Return whether what all rows have of an axis is more than its default."""
    value = rows[axis].iloc[0]
    return not is_missing(value) and (axis not in AXES or value != AXES[axis].default)


def failures_table(frame: pd.DataFrame, max_rows: int = MAX_FAILURE_ROWS) -> Table:
    """Return rows of every other outcome: one line for each arm and reason, with how many and where."""
    rows = failed_rows(frame)
    columns = (
        Column("outcome"),
        Column("impl"),
        Column("rows", is_number=True),
        Column("reason"),
        Column("where"),
    )
    if len(rows) == 0:
        return Table(columns, (), "")
    rows = rows.assign(reason=[MISSING if is_missing(reason) else str(reason) for reason in rows["reason"]])
    heading = [axis for axis in _HEADING if varies(frame, axis) or axis == "stage"]
    lines: list[tuple[Cell, ...]] = []
    grouped: Any = rows.groupby(["outcome", "arm", "reason"], sort=False)
    for (outcome, arm, reason), same in sorted(grouped, key=lambda item: str(item[0])):
        if len(lines) == max_rows:
            break
        places = list(dict.fromkeys(problem_text(row, heading, frame) for _, row in same.head(50).iterrows()))
        more = len(same) - min(len(places), MAX_EXAMPLES)
        where = "; ".join(places[:MAX_EXAMPLES]) + (f"; and {more:,} more" if more > 0 else "")
        cut = reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]} … ({len(reason):,} characters)"
        lines.append((Cell(outcome), Cell(arm), Cell(count_text(len(same))), Cell(cut), Cell(where)))
    left_out = grouped.ngroups - len(lines)
    note = (
        f"{plural(left_out, 'further reason')} left out here; the Parquet file of the run holds all."
        if left_out
        else ""
    )
    return Table(columns, (Group("", tuple(lines)),), note)


def outcomes_table(frame: pd.DataFrame) -> Table:
    """Return rows by implementation and outcome."""
    outcomes = list(frame["outcome"].value_counts().index)
    columns = (Column("impl"), *(Column(str(outcome), is_number=True) for outcome in outcomes))
    counts = (
        frame.groupby(["arm", "outcome"], sort=False).size().unstack(fill_value=0)
        if len(frame)
        else pd.DataFrame()
    )
    lines = tuple(
        (
            Cell(str(arm)),
            *(Cell(count_text(int(row[outcome])) if row[outcome] else "") for outcome in outcomes),
        )
        for arm, row in counts.iterrows()
    )
    return Table(columns, (Group("", lines),) if lines else ())


def flags_table(frame: pd.DataFrame) -> Table:
    """Return how many rows carry which flag."""
    names = [name for flags in frame["flags"] for name in flags]
    counts = pd.Series(names, dtype=object).value_counts()
    lines = tuple(
        (Cell(str(name)), Cell(count_text(int(count))), Cell(FLAG_MEANINGS.get(str(name), "")))
        for name, count in counts.items()
    )
    columns = (Column("flag"), Column("rows", is_number=True), Column("meaning"))
    return Table(columns, (Group("", lines),) if lines else ())


def _has_any(rows: pd.DataFrame, column: str) -> bool:
    return any(rows[column]) if column == "flags" else bool(rows[column].notna().any())


def _checked_text(row: Any) -> str:
    if is_missing(row.num_sampled_queries):
        return "all" if not is_missing(row.num_checked_queries) else MISSING
    return f"{count_text(row.num_sampled_queries)} of {count_text(row.q_len)}"


def _error_of_budget(error: float, budget: float) -> str:
    if is_missing(error):
        return MISSING
    return error_text(error) if is_missing(budget) else f"{error_text(error)} / {error_text(budget)}"
