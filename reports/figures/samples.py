"""Raw samples of cells: latency in order of measuring, and beside it how the calls are distributed.

A row of panels is one series of an implementation on a problem. Its members (runs, environments) stand side
by side and share the axis of latency, so that two runs can be compared; their distributions overlay.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from textwrap import wrap
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from gqabench.reports.figures.axes import darker
from gqabench.reports.figures.palette import NEUTRAL, Style, impl_style
from gqabench.reports.figures.theme import INK, freeze_layout, new_figure, png_bytes, svg_bytes, theme
from gqabench.reports.frames.sample_panels import Member, PanelRow, panel_rows
from gqabench.reports.frames.samples import Series
from gqabench.reports.units import digits_text, interval_text, plural

Array: TypeAlias = npt.NDArray[Any]

MAX_ROWS = 6
MAX_MEMBERS = 5
"""As many as there are dash patterns."""
SUFFIXES = (".png", ".svg")

_PANEL_INCHES = 2.5
_LINE_LETTERS = 115
"""Of a panel's text, over all panels of a row."""
_SLICE_SHADE = "#EEF1F4"
_MOST_SHADED = 80
"""Of more slices the stripes are too narrow to be told apart."""


def samples_figure(series: Sequence[Series], suffix: str) -> bytes:
    """Draw the series as `.png` or `.svg`. Raises `ValueError` for another ending, none, or too many."""
    if suffix not in SUFFIXES:
        raise ValueError(f"must end with {' or '.join(SUFFIXES)}")
    rows = panel_rows(series)
    if not rows:
        raise ValueError("there are no samples to draw")
    if len(rows) > MAX_ROWS:
        raise ValueError(f"{len(rows)} cells or series; a figure shows {MAX_ROWS} at most")
    if (most := max(len(row.members) for row in rows)) > MAX_MEMBERS:
        raise ValueError(f"{most} runs of one cell; a figure shows {MAX_MEMBERS} at most")
    with theme():
        figure = draw(rows)
        freeze_layout(figure)
        return png_bytes(figure) if suffix == ".png" else svg_bytes(figure)


def draw(rows: Sequence[PanelRow]) -> Figure:
    """Draw a row of panels for each, with the distribution at its right."""
    num_most = max(len(row.members) for row in rows)
    figure = new_figure((_PANEL_INCHES + 0.5) * len(rows), {1: 8.2}.get(num_most, 10.0))
    parts = figure.subfigures(len(rows), 1, squeeze=False)
    for row, part in zip(rows, parts.flat, strict=True):
        part.suptitle(row.title, x=0.01, ha="left", size=9.5, weight="bold")
        _draw_row(part, row)
    _legend(figure, rows)
    return figure


def _draw_row(part: SubFigure, row: PanelRow) -> None:
    num_members = len(row.members)
    panels: list[Axes] = list(
        part.subplots(
            1, num_members + 1, sharey=True, width_ratios=[*[3.0] * num_members, 1.0 + 0.5 * num_members]
        )
    )
    low, high = row.limits_ms
    room = 0.06 * (high - low) or 0.05 * high
    limits = low - room, high + room
    panels[0].set_ylim(*limits)
    panels[0].set_ylabel("latency of a call (ms)")
    panels[0].yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    panels[0].set_xlabel("call, in order of measuring", loc="left")
    for member, axes in zip(row.members, panels, strict=False):
        _draw_in_order(axes, member, limits, _point_size(len(member.series.samples_ms) * num_members))
        lines = _panel_lines(member, _LINE_LETTERS // num_members)
        axes.set_title("\n".join(lines), size=8 if num_members < 4 else 7, weight="normal")
    _draw_distribution(panels[-1], row)


def _draw_in_order(axes: Axes, member: Member, limits: tuple[float, float], point_size: float) -> None:
    """Draw a point for each call, slices as stripes, and the median with its interval across."""
    series, color = member.series, _style(member).color
    values = np.asarray(series.samples_ms, dtype=float)
    num_calls, starts = len(values), series.slice_starts
    axes.set_xlim(-0.5 - 0.02 * num_calls, num_calls - 0.5 + 0.02 * num_calls)
    _shade_slices(axes, series)
    if (interval := series.interval_ms) is not None:
        axes.axhspan(*interval, color=color, alpha=0.22, lw=0, zorder=1.5)
    axes.axhline(series.median_ms, color=INK, lw=1.1, zorder=3)
    is_first = np.zeros(num_calls, dtype=bool)
    is_first[starts if len(starts) < num_calls else []] = True
    inside = (values >= limits[0]) & (values <= limits[1])
    filled, hollow = np.flatnonzero(inside & ~is_first), np.flatnonzero(inside & is_first)
    alpha = 1 if num_calls <= 200 else 0.55
    axes.scatter(filled, values[filled], s=point_size, c=color, lw=0, alpha=alpha, zorder=2.5)
    axes.scatter(
        hollow, values[hollow], s=point_size, c="white", edgecolors=darker(color), lw=0.9, zorder=2.5
    )
    _mark_outside(axes, values, limits)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, min_n_ticks=1))


def _style(member: Member) -> Style:
    return impl_style(str(member.series.row["impl"]), member.number)


def _shade_slices(axes: Axes, series: Series) -> None:
    """Shade every other slice, unless slices are of one call or too narrow to be told apart."""
    if not _is_shaded(series):
        return
    for start, end in list(pairwise([*series.slice_starts, len(series.samples_ms)]))[1::2]:
        axes.axvspan(start - 0.5, end - 0.5, color=_SLICE_SHADE, lw=0, zorder=0)


def _is_shaded(series: Series) -> bool:
    return 1 < len(series.slice_starts) <= min(_MOST_SHADED, len(series.samples_ms) - 1)


def _point_size(num_calls: int) -> float:
    """Return the area of a point, in square points, for so many across the figure."""
    return 22 if num_calls <= 60 else 11 if num_calls <= 300 else 5


def _mark_outside(axes: Axes, values: Array, limits: tuple[float, float]) -> None:
    """Draw a triangle at the edge for each call beyond the axis, and say how far they reach."""
    for is_outside, marker, edge, farthest in (
        (values > limits[1], "^", limits[1], values.max()),
        (values < limits[0], "v", limits[0], values.min()),
    ):
        places = np.flatnonzero(is_outside)
        if len(places):
            axes.plot(places, [edge] * len(places), marker, color=INK, ms=4, clip_on=False, zorder=4)
            axes.annotate(
                f"{plural(len(places), 'call')} beyond, to {digits_text(farthest)} ms", (0.99, edge),
                xycoords=("axes fraction", "data"), xytext=(0, -7 if marker == "^" else 7),
                textcoords="offset points", ha="right", va="center", size=7.5,
            )  # fmt: skip


def _panel_lines(member: Member, num_letters: int) -> list[str]:
    """Return what a panel says of its series: whose it is, its median, how many calls, its flags."""
    series = member.series
    interval = series.interval_ms
    width = "" if interval is None else f" ({interval_text(*interval)})"
    calls = plural(len(series.samples_ms), "call")
    if series.slice_sizes and max(series.slice_sizes) == 1:
        calls += ", one a slice"
    elif series.slice_sizes:
        calls += f" in {plural(len(series.slice_starts), 'slice')}"
    elif series.is_thinned:
        calls += " that a baseline kept"
    facts = [member.label, f"{digits_text(series.median_ms)} ms{width}", calls]
    if flags := [str(flag).replace("_", " ") for flag in series.row["flags"]]:
        facts.append(f"flags: {', '.join(flags)}")
    return [line for fact in facts for line in wrap(fact, num_letters)]


def _draw_distribution(axes: Axes, row: PanelRow) -> None:
    """Draw for each member the latency that so many calls do not exceed: a step is a gap between groups."""
    for member in row.members:
        ordered = np.sort(member.series.samples_ms)
        shares = np.linspace(0, 100, len(ordered) + 1)
        style = _style(member)
        axes.step(
            shares, [*ordered, ordered[-1]], where="post", color=style.color, linestyle=style.linestyle,
            lw=1.5, label=member.name,
        )  # fmt: skip
    axes.set_xlim(0, 100)
    axes.set_xticks([0, 25, 50, 75, 100], ["0", "", "50", "", "100"])
    axes.set_xlabel("calls at or below (%)")
    if len(row.members) > 1:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=7.5, handlelength=2.6,
            borderaxespad=0.2,
        )  # fmt: skip


def _legend(figure: Figure, rows: Sequence[PanelRow]) -> None:
    """Explain the marks below the panels."""
    all_series = [member.series for row in rows for member in row.members]
    point: dict[str, Any] = {"marker": "o", "linestyle": "", "ms": 4.5}
    handles: list[Any] = [Line2D([], [], color=NEUTRAL, label="a call", **point)]
    if any(0 < len(one.slice_starts) < len(one.samples_ms) for one in all_series):
        handles.append(Line2D([], [], color=NEUTRAL, mfc="white", label="first call of a slice", **point))
    if any(map(_is_shaded, all_series)):
        handles.append(Patch(color=_SLICE_SHADE, lw=0, label="every other slice"))
    handles.append(Line2D([], [], color=INK, lw=1.1, label="median"))
    if any(one.interval_ms is not None for one in all_series):
        handles.append(Patch(color=NEUTRAL, alpha=0.3, lw=0, label="its 95 % interval"))
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), fontsize=8)
