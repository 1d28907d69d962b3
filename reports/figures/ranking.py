"""Implementations on one problem, the fastest on top: for runs that sweep neither context nor batch."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gqabench.reports.figures.axes import arm_styles, draw_bars, outer_labels, panel_titles
from gqabench.reports.figures.captions import fastest_text
from gqabench.reports.figures.spec import NO_LATENCY, FigureData, FigureSpec, NotDrawn
from gqabench.reports.figures.theme import INK, new_figure
from gqabench.reports.frames.baseline import in_speed_order
from gqabench.reports.frames.problem import one_problem, where_text
from gqabench.reports.frames.slices import choose_facets, slice_note, take_slice, varies
from gqabench.reports.frames.tidy import cells
from gqabench.reports.units import MISSING, duration_text, is_missing, listed, ms_text
from gqabench.results.axes import AXES

MAX_BARS = 20
_DRAWN = ["arm", "latency_ms", "latency_ci_low_ms", "latency_ci_high_ms"]
_ONE_OF = ("kv_len", "batch_size", "model")


def prepare(frame: pd.DataFrame) -> FigureData | NotDrawn:
    """Return latencies at one context and batch size, a panel for each number of KV heads."""
    rows = cells(frame)
    if len(rows) < 2:
        return NotDrawn("only one latency was measured" if len(rows) else NO_LATENCY)
    several = [AXES[axis].plural for axis in _ONE_OF if varies(rows, axis)]
    if several:
        return NotDrawn(f"several {listed(several)} were measured, and bars show one")
    faceted, facets = choose_facets(rows, fixed=[], max_columns=3, max_rows=2)
    free = [axis for axis in (facets.column, facets.row) if axis]
    drawn = take_slice(faceted, free, all_rows=rows).frame
    arms = in_speed_order(drawn)[:MAX_BARS]
    drawn = drawn[drawn["arm"].isin(arms)]
    return FigureData(drawn, _caption(drawn, rows), slice_note(drawn, rows), facets, extras={"arms": arms})


def _caption(frame: pd.DataFrame, measured: pd.DataFrame) -> str:
    rows = one_problem(frame)
    where = where_text(rows.iloc[0], measured, ("num_kv_heads",))
    return f"With {where}, {fastest_text(rows, 'latency_ms', duration_text)}"


def draw(data: FigureData) -> Figure:
    """Draw bars of latency with the 95 % interval of the median."""
    facets, arms = data.facets, data.extras["arms"]
    figure = new_figure(
        max(0.28 * len(arms) + 0.5, 1.3) * len(facets.rows) + 0.6, 10.0 if len(facets.columns) > 1 else 7.2
    )
    panels = figure.subplots(len(facets.rows), len(facets.columns), squeeze=False, sharex=True, sharey=True)
    colors = {arm: style.color for arm, style in arm_styles(data.frame).items()}
    for row, row_value in enumerate(facets.rows):
        for column, column_value in enumerate(facets.columns):
            rows = facets.panel(data.frame, row_value, column_value)
            _draw_panel(panels[row][column], rows, arms, colors)
    panels[0][0].set_xlim(0, float(data.frame["latency_ms"].max()) * 1.2)
    panel_titles(panels, facets, data.frame)
    outer_labels(panels, "latency (ms)", "")
    return figure


def _draw_panel(axes: Axes, rows: pd.DataFrame, arms: list[str], colors: dict[str, str]) -> None:
    by_arm: dict[str, Any] = {str(row.arm): row for row in rows[_DRAWN].itertuples()}
    draw_bars(axes, {arm: by_arm[arm].latency_ms if arm in by_arm else math.nan for arm in arms}, colors)
    for place, arm in enumerate(arms):
        row = by_arm.get(arm)
        if row is None:
            axes.annotate(MISSING, (0, place), xytext=(4, 0), textcoords="offset points", va="center", size=8)
            continue
        low, high = row.latency_ci_low_ms, row.latency_ci_high_ms
        has_interval = not is_missing(low) and not is_missing(high)
        if has_interval:
            axes.hlines(place, low, high, color=INK, lw=1.6)
        end = (high if has_interval else row.latency_ms, place)
        axes.annotate(
            ms_text(row.latency_ms), end, xytext=(5, 0), textcoords="offset points", va="center", size=8
        )


FIGURE = FigureSpec(
    "ranking", "Latency by implementation", prepare, draw, per_stage=True, instead=("latency",)
)
