"""Axes that a reader can read: ticks at the measured values, units in labels, labels that do not overlap."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from gqabench.reports.figures.palette import NEUTRAL, Style, impl_style
from gqabench.reports.figures.theme import INK, new_figure
from gqabench.reports.frames.slices import Facets
from gqabench.reports.units import bytes_text, digits_text, rate_text, tokens_text

MAX_ARMS = 12
"""More lines in one panel cannot be told apart."""

MARKER_EDGE: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.5}
"""Around the markers of lines, so that those which overlap stay apart."""


def panel_grid(
    facets: Facets, panel_height: float, *, lower_rows: float = 1.0, sharey: Any = True
) -> tuple[Figure, Any]:
    """Return a figure with one panel for each combination of facet values, and its axes as a 2-D array.

    A single panel, or two, do not fill the width of the page: they keep a readable shape. `lower_rows` is
    the height of every row but the first, as a share of it.
    """
    num_rows, num_columns = len(facets.rows), len(facets.columns)
    width = {1: 7.2, 2: 9.0}.get(num_columns, 10.0)
    ratios = [1.0, *[lower_rows] * (num_rows - 1)]
    height = panel_height * sum(ratios) * (1.25 if num_columns == 1 else 1.0) + 0.9
    figure = new_figure(height, width)
    return figure, figure.subplots(
        num_rows, num_columns, squeeze=False, sharex=True, sharey=sharey, height_ratios=ratios
    )


def panel_titles(panels: Any, facets: Facets, frame: pd.DataFrame) -> None:
    """Name the columns above the top row, and the rows at the right of the last column."""
    for axes, value in zip(panels[0], facets.columns, strict=True):
        axes.set_title(facets.column_title(frame, value))
    for axes, value in zip(panels[:, -1], facets.rows, strict=True):
        axes.annotate(
            facets.row_title(frame, value), xy=(1.03, 0.5), xycoords="axes fraction", rotation=270, ha="left",
            va="center", weight="bold", size=10,
        )  # fmt: skip


def outer_labels(panels: Any, x_label: str, y_label: str) -> None:
    """Label the bottom row and the left column only."""
    for place, axes in enumerate(panels[-1]):
        axes.set_xlabel(x_label if place == 0 or len(x_label) < 28 else "")
    for axes in panels[:-1].flat:
        axes.set_xlabel("")
    for axes in panels[:, 0]:
        axes.set_ylabel(y_label)
    for axes in panels[:, 1:].flat:
        axes.set_ylabel("")


def count_axis(axis: Any, values: Iterable[float], text: Any = None, limit: int = 7) -> None:
    """Make a log2 axis with ticks at the measured values: contexts, batches, heads."""
    ticks = _thinned(sorted(set(values)), limit)
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    _fixed_ticks(axis, ticks, text or tokens_text)
    if len(ticks) == 1:
        limits = (ticks[0] / 2, ticks[0] * 2)
        axis.axes.set_xlim(*limits) if axis.axis_name == "x" else axis.axes.set_ylim(*limits)


def _thinned(values: list[float], limit: int) -> list[float]:
    """Return every n-th value, so that ticks of a doubling axis stay evenly apart."""
    return values[:: math.ceil(len(values) / limit)]


def bytes_ticks(low: float, high: float, limit: int = 7) -> list[float]:
    """Return powers of two that cover a range of bytes, at most `limit` of them."""
    first, last = math.floor(math.log2(max(low, 1))), math.ceil(math.log2(max(high, 1)))
    step = max(math.ceil((last - first) / max(limit - 1, 1)), 1)
    return [2.0**power for power in range(first, last + step, step)]


def log_bytes_axis(axis: Any, values: pd.Series[Any]) -> None:
    """Make a log axis in binary units."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    _fixed_ticks(axis, bytes_ticks(float(values.min()), float(values.max())), bytes_text)


def linear_bytes_axis(axis: Any, highest: float, limit: int = 4) -> None:
    """Make a linear axis from zero in binary units, with round steps."""
    unit = 1024.0 ** max(math.floor(math.log(max(highest, 1), 1024)), 0)
    step = _round_step(highest / unit / limit) * unit
    ticks = [step * place for place in range(math.floor(highest * 1.001 / step) + 1)]
    _fixed_ticks(axis, ticks, lambda value: "0" if value == 0 else bytes_text(value))


def log_ticks(low: float, high: float) -> list[float]:
    """Return decades, with 2 and 5 between them where fewer than three decades are covered."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if math.log10(high / low) < 2 else (1,)
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    inside = [tick for tick in ticks if low / 1.6 <= tick <= high * 1.6]
    return inside or ticks


def log_number_axis(axis: Any, values: pd.Series[Any], text: Any) -> None:
    """Make a log axis for positive numbers, with its limits a little beyond them."""
    low, high = float(values.min()), float(values.max())
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    _fixed_ticks(axis, log_ticks(low, high), text)
    room = max((high / low) ** 0.06, 1.08)
    limits = (low / room, high * room)
    axis.axes.set_xlim(*limits) if axis.axis_name == "x" else axis.axes.set_ylim(*limits)


def latency_tick(milliseconds: float) -> str:
    """Return the text of a tick without trailing zeros: `0.01`, `0.5`, `20`."""
    text = digits_text(milliseconds, 1)
    return text.rstrip("0").rstrip(".") if "." in text else text


def rate_tick(rate: float) -> str:
    """Return the text of a tick: `200`, `10k`, `5M`."""
    return rate_text(rate)


def arm_styles(frame: pd.DataFrame) -> dict[str, Style]:
    """Return the style of every arm of a frame, in the frame's order."""
    arms = frame.drop_duplicates("arm")
    return {
        arm: impl_style(str(impl), int(v))
        for arm, impl, v in zip(arms["arm"], arms["impl"], arms["variant"], strict=True)
    }


def draw_lines(axes: Axes, rows: pd.DataFrame, x: str, y: str, styles: dict[str, Style]) -> None:
    """Draw a line for each arm of `rows`, in the order and look of `styles`."""
    points = rows[["arm", x, y]].dropna().sort_values([x, y], kind="stable")
    lines = {str(arm): (line[x].to_numpy(), line[y].to_numpy()) for arm, line in points.groupby("arm")}
    for arm, style in styles.items():
        if arm in lines:
            axes.plot(
                *lines[arm], color=style.color, linestyle=style.linestyle, marker=style.marker, **MARKER_EDGE
            )
    if not lines:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=NEUTRAL)


def draw_bars(
    axes: Axes, lengths: Mapping[str, float], colors: Mapping[str, str] | str, thickness: float = 0.66
) -> None:
    """Draw a horizontal bar for each name, the first on top, and the names at the left. NaN has no bar."""
    axes.barh(
        range(len(lengths)), list(lengths.values()), height=thickness,
        color=colors if isinstance(colors, str) else [colors[name] for name in lengths],
    )  # fmt: skip
    axes.set_yticks(range(len(lengths)), list(lengths))
    axes.set_ylim(len(lengths) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def arm_legend(figure: Figure, styles: dict[str, Style], extra: Sequence[Line2D] = ()) -> None:
    """Draw a legend of arms below the panels."""
    handles = [
        Line2D(
            [],
            [],
            color=style.color,
            marker=style.marker,
            linestyle=style.linestyle,
            label=arm,
            **MARKER_EDGE,
        )
        for arm, style in styles.items()
    ]
    handles.extend(extra)
    longest = max((len(str(handle.get_label())) for handle in handles), default=1)
    num_columns = max(min(len(handles), int(figure.get_figwidth() * 11 / (longest + 7))), 1)
    figure.legend(handles=handles, loc="outside lower center", ncols=num_columns, handlelength=3.2)


def label_line_ends(
    figure: Figure, axes: Axes, ends: dict[str, tuple[float, float, str]], size: float = 8.5
) -> None:
    """Write each line's name beside its end `(x, y, color)`, moved apart where two would overlap.

    Call it when the limits of `axes` are final.
    """
    if not ends:
        return
    height = figure.get_figheight() * 72 * axes.get_position().height  # points
    places = [
        axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[1] for x, y, _ in ends.values()
    ]
    for (name, (x, y, color)), place in zip(
        ends.items(), spread_apart(places, size * 1.25 / height), strict=True
    ):
        axes.annotate(
            name, xy=(x, y), xycoords="data", xytext=(1.04, place), textcoords="axes fraction", size=size,
            color=darker(color),
            va="center", ha="left", annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": color, "lw": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )  # fmt: skip


def darker(color: str) -> str:
    """Return a colour that thin letters can have on white: two thirds of it, the rest ink."""
    red, green, blue = (
        0.66 * part + 0.34 * ink for part, ink in zip(to_rgb(color), to_rgb(INK), strict=True)
    )
    return to_hex((red, green, blue))


def spread_apart(places: Sequence[float], gap: float) -> list[float]:
    """Return positions at least `gap` apart, in the given order, each as near as can be to where it was."""
    order = sorted(range(len(places)), key=lambda one: places[one])
    groups: list[tuple[float, list[int]]] = []  # centre, members: neighbours that touch move together
    for one in order:
        groups.append((places[one], [one]))
        while len(groups) > 1 and _touch(groups[-2], groups[-1], gap):
            (_, below), (_, above) = groups[-2:]
            members = below + above
            groups[-2:] = [(sum(places[member] for member in members) / len(members), members)]
    moved = list(places)
    for centre, members in groups:
        for rank, member in enumerate(members):
            moved[member] = centre + (rank - (len(members) - 1) / 2) * gap
    return moved


def _touch(below: tuple[float, list[int]], above: tuple[float, list[int]], gap: float) -> bool:
    return above[0] - below[0] < gap * (len(above[1]) + len(below[1])) / 2


def _fixed_ticks(axis: Any, ticks: Sequence[float], text: Any) -> None:
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_locator(NullLocator())


def _round_step(step: float) -> float:
    """Return the next power of two that is at least `step`: a round number of binary units."""
    return 2.0 ** math.ceil(math.log2(step))
