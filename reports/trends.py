"""Trends of cells over runs: a small panel for each cell, its levels and where they changed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.theme import INK, new_figure, png_bytes, theme
from results.history import Trend
from results.metrics import METRICS

PANELS_PER_PAGE = 12
_COLUMNS = 2
_LINE, _LEVEL, _CHANGE = "#0072B2", "#9AA5B1", "#D55E00"


def trend_pages(trends: Sequence[Trend]) -> list[bytes]:
    """PNG pages, in the order of the trends."""
    pages = []
    for start in range(0, len(trends), PANELS_PER_PAGE):
        with theme():
            pages.append(png_bytes(draw_page(trends[start : start + PANELS_PER_PAGE])))
    return pages


def draw_page(trends: Sequence[Trend]) -> Figure:
    """One page: two columns of panels, runs in order of time from left to right."""
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
    starts = [0, *(places[change.first.run_id] for change in trend.changes), len(values)]
    for start, end in pairwise(starts):
        axes.hlines(median(values[start:end]), start - 0.4, end - 0.6, color=_LEVEL, lw=2.2, zorder=0)
    for change in trend.changes:
        place = places[change.first.run_id]
        axes.axvline(place - 0.5, color=_CHANGE, lw=1.2, ls="--")
        text = f"{change.relative:+.1%}\n{change.first.revision[:10]}"
        axes.annotate(
            text, (place - 0.5, 1), xycoords=("data", "axes fraction"), xytext=(3, -2),
            textcoords="offset points", va="top", size=7.5, color=INK,
        )  # fmt: skip
    arm, _, problem = trend.cell.label.partition(", ")
    axes.set_title(f"{arm}\n{problem}", size=8)
    axes.set_ylim(0, max(values) * 1.25)
    axes.set_ylabel(f"{trend.metric}" if METRICS[trend.metric].unit != "share" else "share", size=8)
    axes.set_xlabel("run, in order of time", size=8)
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
