"""Workspace of one call beside the cache: where expanding K and V eats what grouping saved."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from gqabench.reports.figures.axes import arm_styles, draw_bars, linear_bytes_axis, outer_labels
from gqabench.reports.figures.palette import DASHED, NEUTRAL
from gqabench.reports.figures.spec import FigureData, FigureSpec, NotDrawn
from gqabench.reports.figures.theme import new_figure
from gqabench.reports.frames.expansion import expanding_arms
from gqabench.reports.frames.problem import one_problem, where_text
from gqabench.reports.frames.slices import (
    Facets,
    axis_text,
    axis_values,
    slice_note,
    spread_out,
    take_slice,
    varies,
)
from gqabench.reports.frames.tidy import ok_rows, stages
from gqabench.reports.units import bytes_text, is_missing

MAX_COLUMNS = 3
MAX_STAGES = 2
MAX_BARS = 14
XLIM = 1.3
"""Right end of the axis over the longest bar: room for its text."""
LETTER_WIDTH = 0.022
"""Of a bar's text, as a share of the panel."""


def prepare(frame: pd.DataFrame) -> FigureData | NotDrawn:
    """Return rows with a measured workspace, at one problem for each stage and number of KV heads."""
    measured = ok_rows(frame)
    measured = measured[measured["peak_workspace_bytes"].notna()]
    if len(measured) < 2:
        return NotDrawn(f"the workspace of {'one row' if len(measured) else 'no row'} was measured")
    across = (
        "model"
        if varies(measured, "model") and not varies(measured, "num_kv_heads", ["model"])
        else "num_kv_heads"
    )
    measured = measured[measured[across].notna()]
    if len(measured) == 0:
        return NotDrawn("no row tells its KV heads")
    by_stage = [measured[measured["stage"] == stage] for stage in stages(measured)[:MAX_STAGES]]
    drawn = pd.concat([take_slice(rows, (across,)).frame for rows in by_stage])
    columns = spread_out(axis_values(drawn, across), MAX_COLUMNS)
    drawn = drawn[drawn[across].isin(columns)].sort_values("peak_workspace_bytes", kind="stable")
    drawn = drawn.drop_duplicates(["arm", "stage", across], keep="last")
    arms = _in_workspace_order(drawn)
    drawn = drawn[drawn["arm"].isin(arms)]
    columns = [value for value in columns if (drawn[across] == value).any()]
    facets = Facets(across, tuple(columns), "stage", tuple(stages(drawn)))
    extras = {"arms": arms, "expanding": expanding_arms(frame)}
    return FigureData(drawn, _caption(drawn, measured), slice_note(drawn, measured), facets, extras=extras)


def _in_workspace_order(frame: pd.DataFrame) -> list[str]:
    """Return arms by the workspace of their fewest KV heads, the largest first: the order of the bars."""
    first = frame[frame["stage"] == stages(frame)[0]]
    fewest = first[first["num_kv_heads"] == first["num_kv_heads"].min()]
    order = [
        str(arm) for arm in fewest.sort_values("peak_workspace_bytes", ascending=False, kind="stable")["arm"]
    ]
    others = [str(arm) for arm in frame["arm"].unique() if str(arm) not in order]
    arms = order + others
    return arms if len(arms) <= MAX_BARS else [*arms[: MAX_BARS // 2], *arms[-(MAX_BARS // 2) :]]


def _caption(frame: pd.DataFrame, measured: pd.DataFrame) -> str:
    stage = stages(frame)[0]
    rows = one_problem(frame[frame["stage"] == stage]).sort_values("peak_workspace_bytes", kind="stable")
    most, least = rows.iloc[-1], rows.iloc[0]
    cache = bytes_text(most["kv_cache_bytes_model"])
    where = where_text(most, measured[measured["stage"] == stage])
    text = (
        f"At {where}, one {most['stage']} call of {most['arm']} needs "
        f"{bytes_text(most['peak_workspace_bytes'])} of workspace beside a cache of {cache}"
    )
    if most["arm"] == least["arm"]:
        return f"{text}."
    return f"{text}; {least['arm']} needs {bytes_text(least['peak_workspace_bytes'])}."


def draw(data: FigureData) -> Figure:
    """Draw workspace as bars; the solid line is the cache, the dashed one the cache that MHA would need."""
    facets, arms = data.facets, data.extras["arms"]
    styles = arm_styles(data.frame)
    height = max(0.27 * len(arms) + 0.62, 1.3) * len(facets.rows) + 0.95
    figure = new_figure(height, 10.0 if len(facets.columns) > 1 else 7.2)
    panels = figure.subplots(len(facets.rows), len(facets.columns), squeeze=False, sharex="row", sharey=True)
    for row, stage in enumerate(facets.rows):
        highest = _highest(data.frame[data.frame["stage"] == stage])
        for column, value in enumerate(facets.columns):
            axes = panels[row][column]
            rows = facets.panel(data.frame, stage, value)
            above = _stage_title(rows, stage) if column == 0 else ""
            axes.set_title(f"{above}\n{_column_title(rows, str(facets.column), value)}")
            _draw_panel(axes, rows, arms, {arm: styles[arm].color for arm in arms}, highest)
    outer_labels(panels, "workspace (bytes)", "")
    figure.legend(
        handles=[
            Patch(color="#B8C0CA", label="workspace of one call"),
            Line2D([], [], color="#14213D", lw=2, label="KV cache"),
            Line2D([], [], color=NEUTRAL, lw=1.4, linestyle=(0, DASHED), label="KV cache with MHA"),
        ],
        loc="outside lower center", ncols=3,
    )  # fmt: skip
    return figure


def _stage_title(rows: pd.DataFrame, stage: Any) -> str:
    if len(rows) == 0:
        return str(stage)
    return ", ".join(
        [str(stage), *(axis_text(axis, rows[axis].iloc[0]) for axis in ("kv_len", "batch_size"))]
    )


def _column_title(rows: pd.DataFrame, axis: str, value: Any) -> str:
    heads = (
        axis_text("num_kv_heads", rows["num_kv_heads"].iloc[0], rows) if len(rows) else axis_text(axis, value)
    )
    return heads if axis == "num_kv_heads" or len(rows) == 0 else f"{value}, {heads}"


def _highest(rows: pd.DataFrame) -> float:
    mha = rows["kv_cache_bytes_model"] * rows["group_size"]
    return float(pd.concat([rows["peak_workspace_bytes"], mha, pd.Series([1.0])]).max())


def _draw_panel(
    axes: Axes, rows: pd.DataFrame, arms: list[str], colors: dict[str, str], highest: float
) -> None:
    known = dict(zip(rows["arm"], rows["peak_workspace_bytes"], strict=True))
    workspace = {arm: float(known.get(arm, math.nan)) for arm in arms}
    draw_bars(axes, workspace, colors)
    axes.set_xlim(0, highest * XLIM)
    linear_bytes_axis(axes.xaxis, highest * 1.1)
    cache = float(rows["kv_cache_bytes"].fillna(rows["kv_cache_bytes_model"]).median())
    mha = float((rows["kv_cache_bytes_model"] * rows["group_size"]).median())
    if not is_missing(mha):
        axes.axvline(mha, color=NEUTRAL, lw=1.4, linestyle=(0, DASHED), zorder=4)
    if not is_missing(cache):
        axes.axvline(cache, color="#14213D", lw=2, zorder=5)
    longest = max((len(bytes_text(value)) for value in known.values()), default=1)
    width = (0.03 + LETTER_WIDTH * longest) * highest * XLIM
    for place, value in enumerate(workspace.values()):
        start = _clear_of(0.0 if is_missing(value) else value, [cache, mha], width)
        axes.annotate(
            bytes_text(value),
            (start, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            size=8,
            zorder=6,
        )


def _clear_of(start: float, verticals: list[float], width: float) -> float:
    """Return where a text of this width can begin so that no vertical line runs through it."""
    for vertical in sorted(line for line in verticals if not is_missing(line)):
        if start <= vertical <= start + width:
            start = vertical
    return start


FIGURE = FigureSpec("workspace", "Workspace beside the cache", prepare, draw)
