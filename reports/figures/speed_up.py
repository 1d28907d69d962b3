"""Speed-up over the base implementation: a row an implementation, a column a problem."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from gqabench.reports.figures.spec import NO_LATENCY, FigureData, FigureSpec, NotDrawn
from gqabench.reports.figures.theme import INK, new_figure
from gqabench.reports.frames.baseline import base_arm, geometric_mean, speed_ups
from gqabench.reports.frames.doubts import doubt_text, unflagged, unflagged_first
from gqabench.reports.frames.problem import where_text
from gqabench.reports.frames.slices import (
    axis_text,
    axis_values,
    is_one_of,
    slice_note,
    spread_out,
    take_slice,
)
from gqabench.reports.frames.tidy import cells
from gqabench.reports.units import is_missing, ratio_text, times_text, tokens_text

MAX_ROWS = 20
MAX_COLUMNS = 18
LETTER_INCHES = 0.085
"""Of a bold heading."""
COLOR_LIMIT = 3.0
"""Colours end at a factor of 2^3 either way; the numbers go on."""

DIVERGING = LinearSegmentedColormap.from_list(
    "slower_faster", ["#B35806", "#F1A340", "#F7F7F7", "#67A9CF", "#01579B"]
)
"""Orange is slower than the base, blue is faster: safe for colour-blind readers."""


def prepare(frame: pd.DataFrame) -> FigureData | NotDrawn:
    """Return cells with `speed_up` over the base, at no more problems than can be read."""
    measured = cells(frame)
    base = base_arm(measured)
    if base is None:
        arms = list(measured["arm"].unique())
        return NotDrawn(f"only one implementation was measured: {arms[0]}" if arms else NO_LATENCY)
    rows = speed_ups(frame, base)
    free = ["num_kv_heads", "kv_len", "batch_size"]
    if rows["model"].nunique(dropna=False) > 1:
        free = ["model", *free]
    drawn = _few_enough(take_slice(rows, free, all_rows=rows).frame, free)
    means = drawn.groupby("arm")["speed_up"].apply(geometric_mean).sort_values(ascending=False, kind="stable")
    arms = [*[str(arm) for arm in means.index if arm != base][: MAX_ROWS - 1], base]
    drawn = drawn[drawn["arm"].isin(arms)]
    if drawn["arm"].nunique() < 2:
        return NotDrawn(f"no other implementation was measured on the problems of {base}")
    return FigureData(
        drawn,
        _caption(drawn, measured, base),
        slice_note(drawn, measured),
        title=f"Speed-up over {base}, {drawn['stage'].iloc[0]}",
        extras={"base": base, "arms": arms, "free": free},
    )


def _few_enough(rows: pd.DataFrame, free: list[str]) -> pd.DataFrame:
    """Thin the axes, the longest first (batches before contexts), until the problems fit across the page."""
    values = {axis: axis_values(rows, axis) for axis in free}
    limits = {axis: len(values[axis]) for axis in free}
    problems = rows[free].drop_duplicates()
    is_drawn = pd.Series(True, index=problems.index)
    while is_drawn.sum() > MAX_COLUMNS:
        longest = max(reversed(free), key=limits.__getitem__)
        limits[longest] -= 1
        is_drawn = _has_values(problems, values, limits)
    return rows[_has_values(rows, values, limits)]


def _has_values(rows: pd.DataFrame, values: dict[str, list[Any]], limits: dict[str, int]) -> pd.Series[bool]:
    """Return which rows have, of each axis, one of so many of its values."""
    has = pd.Series(True, index=rows.index)
    for axis, limit in limits.items():
        has &= is_one_of(rows[axis], spread_out(values[axis], limit))
    return has


def _caption(frame: pd.DataFrame, measured: pd.DataFrame, base: str) -> str:
    others = frame[frame["arm"] != base]
    sure = unflagged_first(others, "flags", "base_flags")
    best = sure.nlargest(1, "speed_up").iloc[0]
    among = " without flags" if len(sure) < len(others) else ""
    where = where_text(best, measured, ("num_kv_heads", "kv_len", "batch_size"))
    text = (
        f"The largest speed-up{among} over {base} is {times_text(best['speed_up'])}"
        f"{doubt_text(best['flags'], best['base_flags'])}: {best['arm']} with {where}."
    )
    slower = others[others["is_slower"]]
    doubtful = len(slower) - len(unflagged(slower, "flags", "base_flags"))
    doubt = f" ({doubtful} of them in doubt)" if doubtful else ""
    return f"{text} {len(slower)} of {len(others)} cells are slower than {base}, beyond the intervals{doubt}."


def heat_table(data: FigureData) -> pd.DataFrame:
    """Return speed-ups with arms as rows and problems as columns, both in the order of the figure."""
    free = data.extras["free"]
    table = data.frame.pivot_table(
        index="arm", columns=free, values="speed_up", aggfunc="median", dropna=False
    )
    table = table.loc[data.extras["arms"], table.notna().any()]
    order = {axis: axis_values(data.frame, axis) for axis in free}

    def place(column: Any) -> list[int]:
        values = [None if is_missing(value) else value for value in column]
        return [order[axis].index(value) for axis, value in zip(free, values, strict=True)]

    columns = sorted(table.columns, key=place)
    return table[columns]


def draw(data: FigureData) -> Figure:
    """Draw numbers in cells, the problem's batch and context below, its KV heads (or model) above."""
    import seaborn as sns  # here: it takes a second to import

    table, free = heat_table(data), data.extras["free"]
    width = min(max(0.62 * table.shape[1] + 2.6, 6.0), 10.4)
    figure = new_figure(0.34 * len(table) + 1.35, width)
    axes = figure.subplots()
    cell_width = (width - 2.4) / table.shape[1]
    sns.heatmap(
        np.log2(table.to_numpy(dtype=float)), mask=table.isna().to_numpy(), cmap=DIVERGING, center=0,
        vmin=-COLOR_LIMIT, vmax=COLOR_LIMIT, cbar=False, annot=table.map(ratio_text).to_numpy(), fmt="",
        annot_kws={"size": 8.5 if cell_width > 0.45 else 7}, linewidths=0.8, linecolor="white", ax=axes,
    )  # fmt: skip
    axes.set_facecolor("#EEF0F2")
    for row, column in np.argwhere(table.isna().to_numpy()):
        axes.text(column + 0.5, row + 0.5, "–", ha="center", va="center", color=INK, size=8.5)
    axes.grid(visible=False)
    axes.set_yticks(np.arange(len(table)) + 0.5, [str(arm) for arm in table.index], rotation=0)
    ticks, x_label = _ticks(data.frame, free, list(table.columns))
    axes.set_xticks(np.arange(table.shape[1]) + 0.5, ticks, rotation=0)
    axes.tick_params(length=0)
    _group_titles(axes, free, list(table.columns), data.frame, cell_width)
    axes.set(xlabel=x_label, ylabel="")
    return figure


def _ticks(frame: pd.DataFrame, free: list[str], columns: list[Any]) -> tuple[list[str], str]:
    """Return what differs between columns, one line an axis, and the label that says what the lines are."""
    lines: dict[str, tuple[str, Any]] = {
        "num_kv_heads": ("KV heads", lambda value: f"{value:g}"),
        "kv_len": ("context (tokens)", tokens_text),
        "batch_size": ("batch size (b)", lambda value: f"b {value:g}"),
    }
    shown = [axis for axis in free[1:] if frame[axis].nunique() > 1]
    columns_by_axis = [dict(zip(free, column, strict=True)) for column in columns]
    ticks = ["\n".join(lines[axis][1](values[axis]) for axis in shown) for values in columns_by_axis]
    fixed = [axis_text(axis, frame[axis].iloc[0]) for axis in ("kv_len", "batch_size") if axis not in shown]
    return ticks, ", ".join([*(lines[axis][0] for axis in shown), *fixed])


def _group_titles(
    axes: Axes, free: list[str], columns: list[Any], frame: pd.DataFrame, cell_width: float
) -> None:
    """Name each run of columns with the same first value, and part the runs."""
    texts = [axis_text(free[0], column[0], frame) for column in columns]
    starts = [place for place, text in enumerate(texts) if place == 0 or text != texts[place - 1]]
    for start, end in zip(starts, [*starts[1:], len(columns)], strict=True):
        text = texts[start]
        is_narrow = LETTER_INCHES * len(text) > cell_width * (end - start)
        if is_narrow and free[0] == "num_kv_heads":
            text = text.replace(" (", "\n(")
        slanted = 30 if is_narrow and free[0] == "model" else 0
        place = (start + 0.3, "left") if slanted else ((start + end) / 2, "center")
        axes.text(
            place[0], -0.15, text, ha=place[1], va="bottom", size=8.5, weight="bold", rotation=slanted,
            rotation_mode="anchor",
        )  # fmt: skip
        if start:
            axes.axvline(start, color="white", lw=5)


FIGURE = FigureSpec("speed_up", "Speed-up", prepare, draw, per_stage=True)
