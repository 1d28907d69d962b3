"""Latency against context (or batch): one line an implementation, one panel a slice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from gqabench.reports.figures.axes import (
    MAX_ARMS,
    arm_legend,
    arm_styles,
    count_axis,
    draw_lines,
    latency_tick,
    log_number_axis,
    outer_labels,
    panel_grid,
    panel_titles,
)
from gqabench.reports.figures.captions import fastest_text
from gqabench.reports.figures.spec import NO_LATENCY, FigureData, FigureSpec, NotDrawn
from gqabench.reports.frames.baseline import base_arm, in_speed_order
from gqabench.reports.frames.problem import one_problem, where_text
from gqabench.reports.frames.slices import choose_facets, slice_note, take_slice
from gqabench.reports.frames.tidy import cells
from gqabench.reports.units import duration_text
from gqabench.results.axes import AXES

X_AXES = ("kv_len", "batch_size")


@dataclass(frozen=True)
class Measure:
    """What stands on the y axis."""

    column: str
    label: str
    max_rows: int
    tick: Any
    text: Any


LATENCY = Measure("latency_ms", "latency (ms)", 2, latency_tick, duration_text)


def _prepare(measure: Measure, frame: pd.DataFrame) -> FigureData | NotDrawn:
    rows = cells(frame)
    rows = rows[rows[measure.column] > 0]
    x = next((axis for axis in X_AXES if rows[axis].nunique() > 1), None)
    if x is None:
        return NotDrawn("only one context and one batch size were measured" if len(rows) else NO_LATENCY)
    faceted, facets = choose_facets(rows, fixed=[x], max_rows=measure.max_rows)
    free = [x, *(axis for axis in (facets.column, facets.row) if axis)]
    drawn = take_slice(faceted, free, all_rows=rows).frame
    if drawn[x].nunique() < 2:
        return NotDrawn(f"no problem was measured at two {AXES[x].plural}")
    note = slice_note(drawn, rows)
    arms = in_speed_order(drawn)
    if len(arms) > MAX_ARMS:
        base = base_arm(drawn)
        arms = [*[arm for arm in arms if arm != base][: MAX_ARMS - 1], *([base] if base else [])]
        note = f"{note} The {MAX_ARMS} fastest implementations and the base are drawn.".strip()
    drawn = drawn[drawn["arm"].isin(arms)]
    return FigureData(drawn, _caption(measure, drawn, rows, x), note, facets, extras={"x": x, "arms": arms})


def _caption(measure: Measure, frame: pd.DataFrame, measured: pd.DataFrame, x: str) -> str:
    """Compare the best with the base on the largest problem with the fewest KV heads."""
    rows = one_problem(frame, x)
    where = where_text(rows.iloc[0], measured)
    return f"At {where}, {fastest_text(rows, measure.column, measure.text)}"


def _draw(measure: Measure, data: FigureData) -> Figure:
    figure, panels = panel_grid(data.facets, panel_height=2.7)
    x = data.extras["x"]
    styles = arm_styles(data.frame)
    styles = {arm: styles[arm] for arm in data.extras["arms"]}
    for row, row_value in enumerate(data.facets.rows):
        for column, column_value in enumerate(data.facets.columns):
            rows = data.facets.panel(data.frame, row_value, column_value)
            _draw_panel(panels[row][column], rows, x, measure, styles)
    count_axis(panels[0][0].xaxis, data.frame[x], limit=7 if len(data.facets.columns) < 4 else 5)
    log_number_axis(panels[0][0].yaxis, data.frame[measure.column], measure.tick)
    panel_titles(panels, data.facets, data.frame)
    outer_labels(panels, AXES[x].label, measure.label)
    arm_legend(figure, styles)
    return figure


def _draw_panel(axes: Axes, rows: pd.DataFrame, x: str, measure: Measure, styles: dict[str, Any]) -> None:
    draw_lines(axes, rows, x, measure.column, styles)
    if measure.column == "latency_ms":
        _draw_intervals(axes, rows, x, styles)


def _draw_intervals(axes: Axes, rows: pd.DataFrame, x: str, styles: dict[str, Any]) -> None:
    """Shade all intervals at once: for each further shape matplotlib would scale the axes anew."""
    known = rows[["arm", x, "latency_ci_low_ms", "latency_ci_high_ms"]].dropna().sort_values(x)
    bands = {arm: band[[x, *known.columns[2:]]].to_numpy() for arm, band in known.groupby("arm")}
    present = [arm for arm in styles if arm in bands]
    shapes = [np.concatenate([bands[arm][:, [0, 1]], bands[arm][::-1, [0, 2]]]) for arm in present]
    colors = [styles[arm].color for arm in present]
    axes.add_collection(PolyCollection(shapes, facecolors=colors, alpha=0.18, linewidths=0))


def figure_of(name: str, title: str, measure: Measure) -> FigureSpec:
    """Return the figure of one measure against context, or batch."""
    prepare, draw = partial(_prepare, measure), partial(_draw, measure)
    return FigureSpec(name, title, prepare, draw, per_stage=True, instead=("ranking",))


FIGURE = figure_of("latency", "Latency", LATENCY)
