"""Trends of cells over runs: a small panel for each cell, its levels and where they changed.

Dashed lines are the cell's own changes, dotted ones those of its environment, which all arms share.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gqabench.reports.figures.theme import INK, new_figure, png_bytes, theme
from gqabench.results.comparison.metrics import METRICS
from gqabench.results.history import Trend

PANELS_PER_PAGE = 12
_COLUMNS = 2
_MAX_RUN_LABELS = 4
_LINE, _LEVEL, _CHANGE = "#0072B2", "#9AA5B1", "#D55E00"


def trend_pages(trends: Sequence[Trend]) -> list[bytes]:
    """Return PNG pages, in the order of the trends."""
    pages = []
    for start in range(0, len(trends), PANELS_PER_PAGE):
        with theme():
            pages.append(png_bytes(draw_page(trends[start : start + PANELS_PER_PAGE])))
    return pages


def draw_page(trends: Sequence[Trend]) -> Figure:
    """Draw one page: two columns of panels, runs in order of time from left to right."""
    num_rows = -(-len(trends) // _COLUMNS)
    figure = new_figure(2.1 * num_rows + 0.4)
    panels = figure.subplots(num_rows, _COLUMNS, squeeze=False)
    for place, axes in enumerate(panels.flat):
        if place < len(trends):
            _draw_panel(axes, trends[place])
        else:
            axes.set_visible(False)
    return figure


def _draw_panel(axes: Axes, trend: Trend) -> None:
    values = [point.value for point in trend.points]
    places = {point.run_id: place for place, point in enumerate(trend.points)}
    axes.plot(range(len(values)), values, color=_LINE, marker="o", ms=3.5, lw=1)
    changed = {places[change.first.run_id] for change in trend.changes}
    moved = {places[run_id] for run_id in trend.moved_at}
    for start, end in pairwise(sorted({0, *changed, *moved, len(values)})):
        axes.hlines(median(values[start:end]), start - 0.4, end - 0.6, color=_LEVEL, lw=2.2, zorder=0)
    for place in moved - changed:
        axes.axvline(place - 0.5, color=_LEVEL, lw=1.2, ls=":")
    for change in trend.changes:
        place = places[change.first.run_id]
        axes.axvline(place - 0.5, color=_CHANGE, lw=1.2, ls="--")
        step = f"{change.relative:+.1%}" if change.before else "from nothing"
        text = f"{step}\n{change.first.revision[:10]}"
        axes.annotate(
            text, (place - 0.5, 1), xycoords=("data", "axes fraction"), xytext=(3, -2),
            textcoords="offset points", va="top", size=7.5, color=INK,
        )  # fmt: skip
    arm, _, problem = trend.cell.label.partition(", ")
    axes.set_title(f"{arm}\n{problem}", size=8)
    axes.set_ylim(min(0, *values), max(values) * 1.25)
    axes.set_ylabel(f"{trend.metric}" if METRICS[trend.metric].unit != "share" else "share", size=8)
    _label_runs(axes, trend)


def _label_runs(axes: Axes, trend: Trend) -> None:
    """Label some runs with their day, evenly in their order; with the time where all are of one day."""
    days = [point.created_at[:10] for point in trend.points]
    is_one_day = len(set(days)) == 1
    labels = [point.created_at[11:16] for point in trend.points] if is_one_day else days
    last = len(labels) - 1
    places = sorted({round(last * share) for share in np.linspace(0, 1, min(len(labels), _MAX_RUN_LABELS))})
    axes.set_xticks(places, [labels[place] for place in places], size=7.5)
    axes.set_xlabel(f"runs of {days[0]}, in order" if is_one_day else "runs, in order", size=8)
