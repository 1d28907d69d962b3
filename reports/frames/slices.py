"""One problem axis at a time: which slice of a sweep a figure draws, and what it leaves out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gqabench.reports.units import is_missing, tokens_text
from gqabench.results.axes import AXES, FACET_KEYS

MAX_LISTED = 6
_LEADING_WORDS = {"batch_size", "kv_len", "head_dim", "tp"}
"""Axes whose values read `WORD VALUE`: the word is said once."""


@dataclass(frozen=True)
class Facets:
    """Panels of a figure: the values of one axis across, of another down. None is a single panel."""

    column: str | None = None
    columns: tuple[Any, ...] = (None,)
    row: str | None = None
    rows: tuple[Any, ...] = (None,)

    @property
    def num_panels(self) -> int:
        return len(self.columns) * len(self.rows)

    def panel(self, frame: pd.DataFrame, row: Any, column: Any) -> pd.DataFrame:
        """Return the rows of one panel."""
        if self.row is not None:
            frame = frame[equals(frame[self.row], row)]
        if self.column is not None:
            frame = frame[equals(frame[self.column], column)]
        return frame

    def column_title(self, frame: pd.DataFrame, column: Any) -> str:
        """Return what tells one column from the others; empty for a single one."""
        return "" if self.column is None else axis_text(self.column, column, frame)

    def row_title(self, frame: pd.DataFrame, row: Any) -> str:
        """Return what tells one row from the others; empty for a single one."""
        return "" if self.row is None else axis_text(self.row, row, frame)


@dataclass(frozen=True)
class Slice:
    """The rows that a figure draws, and in words which they are."""

    frame: pd.DataFrame
    note: str = ""
    """`Drawn: float16. Also measured: bfloat16.`, or empty when nothing was left out."""


def equals(values: pd.Series[Any], value: Any) -> pd.Series[bool]:
    """Return where a column has this value; missing equals missing."""
    return values.isna() if is_missing(value) else values == value


def is_one_of(values: pd.Series[Any], wanted: Collection[Any]) -> pd.Series[bool]:
    """Return where a column has one of the values; None among them stands for missing."""
    found = values.isin([value for value in wanted if value is not None])
    return found | values.isna() if None in wanted else found


def axis_values(frame: pd.DataFrame, axis: str) -> list[Any]:
    """Return an axis's values: missing first, numbers in order (KV heads from MHA down), names as met."""
    present = list(dict.fromkeys(None if is_missing(value) else value for value in frame[axis].unique()))
    known = [value for value in present if value is not None]
    if all(isinstance(value, int | float) for value in known):
        known.sort(reverse=axis == "num_kv_heads")
    return [*([None] if None in present else []), *known]


def varies(frame: pd.DataFrame, axis: str, given: Collection[str] = ()) -> bool:
    """Return whether an axis takes more than one value where the `given` axes are fixed."""
    if len(frame) == 0:
        return False
    if not given:
        return bool(frame[axis].nunique(dropna=False) > 1)
    return bool(frame.groupby(list(given), dropna=False)[axis].nunique(dropna=False).max() > 1)


def spread_out(values: Sequence[Any], limit: int) -> list[Any]:
    """Return at most `limit` of the values, the first and the last among them, evenly apart.

    Of numbers the only one is the last, the largest; of names the first.
    """
    if len(values) <= limit:
        return list(values)
    if limit == 1:
        return [values[-1] if isinstance(values[-1], int | float) else values[0]]
    return [values[round(place * (len(values) - 1) / (limit - 1))] for place in range(limit)]


def choose_facets(
    frame: pd.DataFrame, fixed: Sequence[str], max_columns: int = 4, max_rows: int = 2
) -> tuple[pd.DataFrame, Facets]:
    """Return panels for the first two axes that vary beside the `fixed` ones, and the rows in them.

    An axis that follows from a chosen one (a model's KV heads from the model) needs no panel of its own.
    """
    chosen: list[str] = []
    for axis in FACET_KEYS:
        if len(chosen) < 2 and axis not in fixed and _is_open(frame, axis, [*fixed, *chosen]):
            chosen.append(axis)
    limits = dict(zip(chosen, (max_columns, max_rows), strict=False))
    kept: dict[str, tuple[Any, ...]] = {}
    for axis, limit in limits.items():
        kept[axis] = tuple(spread_out(axis_values(frame, axis), limit))
        frame = frame[is_one_of(frame[axis], kept[axis])]
    kept = {
        axis: tuple(one for one in values if equals(frame[axis], one).any()) for axis, values in kept.items()
    }
    column, row = ([*chosen, None, None])[:2]
    return frame, Facets(
        column=column,
        columns=kept[column] if column else (None,),
        row=row,
        rows=kept[row] if row else (None,),
    )


def take_slice(frame: pd.DataFrame, free: Collection[str], all_rows: pd.DataFrame | None = None) -> Slice:
    """Fix every axis that is not `free` to one value: that of the most rows and, of equals, the largest.

    A shape that follows from a free model stays. `all_rows` is what was measured, when `frame` is already
    a part of it; the note then also names what that part leaves out.
    """
    measured = frame if all_rows is None else all_rows
    for axis in AXES:
        if axis not in free and _is_open(frame, axis, free):
            frame = frame[equals(frame[axis], _fullest(frame, axis))]
    return Slice(frame, slice_note(frame, measured))


def slice_note(drawn: pd.DataFrame, measured: pd.DataFrame) -> str:
    """Return which values are drawn, some of the measured rows; empty when no value was left out."""
    if len(drawn) in {0, len(measured)}:
        return ""
    drawn_texts, other_texts = [], []
    for axis in ("stage", *AXES):
        there = axis_values(measured, axis)
        here = axis_values(drawn, axis) if len(there) > 1 else there
        left_out = [value for value in there if value not in here]
        if left_out and not _follows_from_others(measured, axis):
            drawn_texts.append(_values_text(axis, here, drawn))
            other_texts.append(_values_text(axis, left_out, measured))
    if not drawn_texts:
        return ""
    return f"Drawn: {'; '.join(drawn_texts)}. Also measured: {'; '.join(other_texts)}."


def axis_text(axis: str, value: Any, frame: pd.DataFrame | None = None) -> str:
    """Return a value of an axis as a reader says it: `8 KV heads (GQA)`, `batch 4`, `context 32K`.

    What is no axis of the table, such as the stage, reads as it is.
    """
    if axis == "num_kv_heads":
        return _with_kind(value, frame)
    if axis not in AXES:
        return str(value)
    if is_missing(value) or value is False:
        return AXES[axis].null_text
    return AXES[axis].entry.text.format(number=_number(value), tokens=_tokens(value))


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def heads_kind(num_kv_heads: float, num_q_heads: float) -> str:
    """Return `MHA`, `MQA` or `GQA`."""
    if num_kv_heads == num_q_heads:
        return "MHA"
    return "MQA" if num_kv_heads == 1 else "GQA"


def heads_text(num_kv_heads: float) -> str:
    """Return `1 KV head`, `8 KV heads`."""
    return "1 KV head" if num_kv_heads == 1 else f"{num_kv_heads:g} KV heads"


def _with_kind(num_kv_heads: Any, frame: pd.DataFrame | None) -> str:
    if is_missing(num_kv_heads):
        return "unknown KV heads"
    query_heads = (
        []
        if frame is None
        else list(frame.loc[frame["num_kv_heads"] == num_kv_heads, "num_q_heads"].unique())
    )
    kinds = {heads_kind(num_kv_heads, num_q_heads) for num_q_heads in query_heads}
    return heads_text(num_kv_heads) + (f" ({kinds.pop()})" if len(kinds) == 1 else "")


def _tokens(value: Any) -> str:
    return tokens_text(value) if isinstance(value, int | float) else str(value)


def _values_text(axis: str, values: list[Any], frame: pd.DataFrame) -> str:
    """Return several values of an axis in one breath: `batch 1, 4, 16`, `32, 8 KV heads`."""
    shown = [axis_text(axis, value, frame) for value in values[:MAX_LISTED]]
    if axis == "num_kv_heads" and len(values) > 1:
        shown = [f"{value:g}" for value in values[:MAX_LISTED]]
    if axis in _LEADING_WORDS:
        shown = [shown[0], *(text.rpartition(" ")[2] for text in shown[1:])]
    more = f" and {len(values) - MAX_LISTED} more" if len(values) > MAX_LISTED else ""
    tail = " KV heads" if axis == "num_kv_heads" and len(values) > 1 else ""
    return ", ".join(shown) + more + tail


def _is_open(frame: pd.DataFrame, axis: str, free: Collection[str]) -> bool:
    """Return whether an axis takes several values beyond what a free model, tp or context implies."""
    tellers = free if axis == "q_len" else [one for one in free if one in {"model", "tp"}]
    return varies(frame, axis, tellers)


def _fullest(frame: pd.DataFrame, axis: str) -> Any:
    values = axis_values(frame, axis)
    counts = [int(equals(frame[axis], value).sum()) for value in values]
    best = [value for value, count in zip(values, counts, strict=True) if count == max(counts)]
    numbers = [value for value in best if isinstance(value, int | float)]
    return max(numbers) if len(numbers) == len(best) else best[0]


def _follows_from_others(frame: pd.DataFrame, axis: str) -> bool:
    """Return whether the model tells this axis, or the context the new tokens: naming it says nothing."""
    if axis != "model" and varies(frame, "model") and not varies(frame, axis, ["model"]):
        return True
    return axis == "q_len" and not varies(frame, axis, ["stage", "kv_len"])
