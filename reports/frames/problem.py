"""One problem of a figure or a finding, and where it stands, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from gqabench.reports.frames.slices import axis_text, equals, take_slice, varies
from gqabench.reports.units import is_missing, listed
from gqabench.results.axes import TOLD_KEYS

SIZE_AXES = ("kv_len", "batch_size", "num_kv_heads")


def one_problem(rows: pd.DataFrame, first: str = "kv_len") -> pd.DataFrame:
    """Return the rows of one problem: the largest by `first`, then by batch and context, fewest KV heads.

    Grouping matters most there. All other axes have the value of the most of these rows.
    """
    for axis in (first, "batch_size", "kv_len"):
        rows = rows[equals(rows[axis], rows[axis].max())]
    rows = rows[equals(rows["num_kv_heads"], rows["num_kv_heads"].min())]
    return take_slice(rows, ()).frame


def where_text(row: Any, measured: pd.DataFrame, axes: Sequence[str] = SIZE_AXES) -> str:
    """Return `context 8K, batch 4 and 1 KV head (MQA)`: some axes, and all that have several values.

    Several in `measured`; a shape that follows from the model is given by its name.
    """
    several = [axis for axis in TOLD_KEYS if _has_several(measured, axis)]
    named = [*axes, *(axis for axis in several if not (axis == "model" and is_missing(row[axis])))]
    same = measured[equals(measured["num_q_heads"], row["num_q_heads"])]
    return listed([axis_text(axis, row[axis], same) for axis in named], limit=len(named))


def _has_several(measured: pd.DataFrame, axis: str) -> bool:
    if axis == "q_len":
        return varies(measured, axis, ["stage", "kv_len"])
    if axis in {"num_q_heads", "head_dim"} and varies(measured, "model"):
        return varies(measured, axis, ["model"])
    return varies(measured, axis)
