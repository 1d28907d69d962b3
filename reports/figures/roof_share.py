"""How near each implementation comes to what the machine was measured to reach."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from gqabench.reports.figures.axes import (
    MAX_ARMS,
    arm_legend,
    arm_styles,
    count_axis,
    draw_bars,
    draw_lines,
    outer_labels,
    panel_grid,
    panel_titles,
)
from gqabench.reports.figures.palette import DOTTED, NEUTRAL
from gqabench.reports.figures.spec import NO_LATENCY, FigureData, FigureSpec, NotDrawn
from gqabench.reports.figures.theme import new_figure
from gqabench.reports.frames.baseline import base_arm, in_speed_order
from gqabench.reports.frames.doubts import doubt_text, fastest_rows
from gqabench.reports.frames.problem import one_problem, where_text
from gqabench.reports.frames.slices import choose_facets, slice_note, take_slice
from gqabench.reports.frames.tidy import cells
from gqabench.reports.units import listed, percent_text, roof_text
from gqabench.results.axes import AXES

X_AXES = ("kv_len", "num_kv_heads", "batch_size")


def prepare(frame: pd.DataFrame) -> FigureData | NotDrawn:
    """Return cells under the roof that bounds most of them, against the first of `X_AXES` that varies."""
    measured = cells(frame)
    known = measured[measured["roof"].notna() & (measured["roof_fraction"] > 0)]
    if len(measured) == 0:
        return NotDrawn(NO_LATENCY)
    if len(known) < 2:
        which = "only one row has" if len(known) else "no row has"
        return NotDrawn(f"{which} a measured share of the roof")
    roof = str(known["roof"].mode().iloc[0])
    rows = known[known["roof"] == roof]
    x = next((axis for axis in X_AXES if rows[axis].nunique() > 1), None)
    faceted, facets = choose_facets(rows, fixed=[x] if x else [], max_rows=1)
    free = [axis for axis in (x, facets.column, facets.row) if axis]
    drawn = take_slice(faceted, free, all_rows=rows).frame
    arms = in_speed_order(drawn)
    note = slice_note(drawn, measured)
    if len(arms) > MAX_ARMS:
        note = f"{note} The {MAX_ARMS} fastest implementations are drawn.".strip()
    drawn = drawn[drawn["arm"].isin(arms[:MAX_ARMS])]
    extras = {"x": x, "arms": arms[:MAX_ARMS], "roof": roof}
    title = f"Share of the {roof_text(roof)}, {drawn['stage'].iloc[0]}"
    return FigureData(drawn, _caption(drawn, measured, roof, x), note, facets, title, extras)


def _caption(frame: pd.DataFrame, measured: pd.DataFrame, roof: str, x: str | None) -> str:
    rows = one_problem(frame, x if x == "batch_size" else "kv_len")
    told = fastest_rows(rows)
    base = base_arm(rows)
    if base is not None and base not in set(told["arm"]):
        told = pd.concat([told, rows[rows["arm"] == base]])
    shares = [
        f"{row['arm']} reaches {percent_text(row['roof_fraction'])}{doubt_text(row['flags'])}"
        for _, row in told.iterrows()
    ]
    return f"At {where_text(rows.iloc[0], measured)}, {listed(shares)} of the {roof_text(roof)}."


def draw(data: FigureData) -> Figure:
    """Draw lines below the roof at 100 %; bars where one problem was measured."""
    styles = arm_styles(data.frame)
    styles = {arm: styles[arm] for arm in data.extras["arms"]}
    return _draw_bars(data, styles) if data.extras["x"] is None else _draw_lines(data, styles)


def _draw_lines(data: FigureData, styles: dict[str, Any]) -> Figure:
    facets, x = data.facets, data.extras["x"]
    figure, panels = panel_grid(facets, panel_height=2.9)
    for row, row_value in enumerate(facets.rows):
        for column, column_value in enumerate(facets.columns):
            axes = panels[row][column]
            axes.axhline(1.0, color=NEUTRAL, linestyle=(0, DOTTED), lw=1.4, zorder=1)
            draw_lines(axes, facets.panel(data.frame, row_value, column_value), x, "roof_fraction", styles)
    text = (lambda value: f"{value:g}") if x == "num_kv_heads" else None
    count_axis(panels[0][0].xaxis, data.frame[x], text=text, limit=7 if len(facets.columns) < 4 else 5)
    _share_axis(panels[0][0].yaxis, float(data.frame["roof_fraction"].max()))
    if x == "num_kv_heads":
        panels[0][0].invert_xaxis()
    panel_titles(panels, facets, data.frame)
    outer_labels(panels, AXES[x].label, _label(data))
    arm_legend(figure, styles)
    return figure


def _draw_bars(data: FigureData, styles: dict[str, Any]) -> Figure:
    facets, arms = data.facets, data.extras["arms"]
    width = 10.0 if len(facets.columns) > 1 else 7.2
    figure = new_figure(max(0.28 * len(arms) + 0.5, 1.3) * len(facets.rows) + 0.6, width)
    panels = figure.subplots(len(facets.rows), len(facets.columns), squeeze=False, sharex=True, sharey=True)
    for row, row_value in enumerate(facets.rows):
        for column, column_value in enumerate(facets.columns):
            _draw_panel(panels[row][column], facets.panel(data.frame, row_value, column_value), styles)
    _share_axis(panels[0][0].xaxis, float(data.frame["roof_fraction"].max()) * 1.12)
    panel_titles(panels, facets, data.frame)
    outer_labels(panels, _label(data), "")
    return figure


def _draw_panel(axes: Axes, rows: pd.DataFrame, styles: dict[str, Any]) -> None:
    known = dict(zip(rows["arm"], rows["roof_fraction"], strict=True))
    shares = {arm: float(known.get(arm, math.nan)) for arm in styles}
    draw_bars(axes, shares, {arm: style.color for arm, style in styles.items()})
    axes.axvline(1.0, color=NEUTRAL, linestyle=(0, DOTTED), lw=1.4, zorder=1)
    for place, share in enumerate(shares.values()):
        axes.annotate(
            percent_text(share), (share if share > 0 else 0, place), xytext=(4, 0),
            textcoords="offset points", va="center", size=8,
        )  # fmt: skip


def _share_axis(axis: Any, highest: float) -> None:
    """Label per cent from zero to the roof, or beyond it where a cache helped."""
    top = max(highest, 1.0) * 1.05
    step = 0.25 if top < 2 else 0.5 * round(top / 2)
    axis.set_major_locator(FixedLocator([step * place for place in range(int(top / step) + 1)]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: percent_text(value)))
    axis.set_minor_locator(NullLocator())
    axis.axes.set_xlim(0, top) if axis.axis_name == "x" else axis.axes.set_ylim(0, top)


def _label(data: FigureData) -> str:
    return f"share of the {roof_text(data.extras['roof'])} (%)"


FIGURE = FigureSpec("roof_share", "Share of the roof", prepare, draw, per_stage=True)
