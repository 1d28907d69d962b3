"""What more sequences at once give and cost: throughput against latency and cache, by number of KV heads."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gqabench.reports.figures.axes import (
    label_line_ends,
    latency_tick,
    log_bytes_axis,
    log_number_axis,
    rate_tick,
)
from gqabench.reports.figures.palette import KV_HEADS_COLORS
from gqabench.reports.figures.spec import NO_LATENCY, FigureData, FigureSpec, NotDrawn
from gqabench.reports.figures.theme import lay_out, new_figure
from gqabench.reports.frames.doubts import doubt_text
from gqabench.reports.frames.slices import (
    axis_text,
    axis_values,
    heads_text,
    slice_note,
    spread_out,
    take_slice,
)
from gqabench.reports.frames.tidy import cells
from gqabench.reports.units import bytes_text, rate_text, times_text

CACHE = "kv_cache_bytes_model"
MAX_HEADS = 4
_MARKERS = ("o", "s", "^", "D")


def prepare(frame: pd.DataFrame) -> FigureData | NotDrawn:
    """Return the fastest implementation of each number of KV heads and batch size, on one problem."""
    rows = cells(frame)
    rows = rows[(rows["tokens_per_s"] > 0) & (rows[CACHE] > 0)]
    if len(rows) == 0:
        return NotDrawn(NO_LATENCY)
    drawn = take_slice(rows, ("num_kv_heads", "batch_size")).frame
    best = drawn.sort_values("latency_ms", kind="stable").drop_duplicates(["num_kv_heads", "batch_size"])
    num_batches = best.groupby("num_kv_heads")["batch_size"].transform("nunique")
    best = best[num_batches > 1]
    if best["num_kv_heads"].nunique() < 2:
        return NotDrawn("no two numbers of KV heads were measured at two batch sizes each")
    heads = spread_out(axis_values(best, "num_kv_heads"), MAX_HEADS)
    best = best[best["num_kv_heads"].isin(heads)].sort_values("batch_size", kind="stable")
    return FigureData(best, _caption(best), slice_note(best, rows), extras={"heads": heads})


def _caption(best: pd.DataFrame) -> str:
    """Say what the fewest KV heads serve in the cache that the smallest batch takes with the most of them."""
    most = best[best["num_kv_heads"] == best["num_kv_heads"].max()].iloc[0]
    fewest = best[best["num_kv_heads"] == best["num_kv_heads"].min()]
    fitting = fewest[fewest[CACHE] <= most[CACHE]]
    other = (fitting if len(fitting) else fewest).loc[lambda rows: rows["tokens_per_s"].idxmax()]
    where = "in no more of it" if len(fitting) else f"in {bytes_text(other[CACHE])}"
    return (
        f"In {bytes_text(most[CACHE])} of cache {_served(most)}; {where}, {_served(other)}, "
        f"{times_text(other['tokens_per_s'] / most['tokens_per_s'])} as many. "
        "The numbers at the points are batch sizes."
    )


def _served(row: Any) -> str:
    return (
        f"{heads_text(row['num_kv_heads'])} at batch {row['batch_size']:g} give "
        f"{rate_text(row['tokens_per_s'])} tokens/s with {row['arm']}{doubt_text(row['flags'])}"
    )


def draw(data: FigureData) -> Figure:
    """Draw a line for each number of KV heads, its points the batch sizes: up is more, left costs less."""
    figure = new_figure(3.9, 10.0)
    panels = figure.subplots(1, 2, sharey=True)
    lines = {
        num_kv_heads: data.frame[data.frame["num_kv_heads"] == num_kv_heads]
        for num_kv_heads in data.extras["heads"]
    }
    for axes, column in zip(panels, ("latency_ms", CACHE), strict=True):
        for place, line in enumerate(lines.values()):
            _draw_line(axes, line, column, place)
    log_number_axis(panels[0].xaxis, data.frame["latency_ms"], latency_tick)
    log_bytes_axis(panels[1].xaxis, data.frame[CACHE])
    log_number_axis(panels[0].yaxis, data.frame["tokens_per_s"], rate_tick)
    panels[0].set(xlabel="latency of one call (ms)", ylabel="throughput of one layer\n(tokens/s)")
    panels[1].set(xlabel="KV cache of one layer", ylabel="")
    panels[0].set_title("against the time of a step")
    panels[1].set_title("against the memory of the cache")
    ends = {
        axis_text("num_kv_heads", num_kv_heads, data.frame): (
            line[CACHE].iloc[-1],
            line["tokens_per_s"].iloc[-1],
            _color(place),
        )
        for place, (num_kv_heads, line) in enumerate(lines.items())
    }
    lay_out(figure)
    label_line_ends(figure, panels[1], ends)
    return figure


def _draw_line(axes: Axes, line: pd.DataFrame, column: str, place: int) -> None:
    axes.plot(
        line[column], line["tokens_per_s"], color=_color(place), marker=_MARKERS[place], ms=5, lw=1.4,
    )  # fmt: skip
    for x, y, batch_size in zip(line[column], line["tokens_per_s"], line["batch_size"], strict=True):
        axes.annotate(
            f"{batch_size:g}", (x, y), xytext=(0, 6), textcoords="offset points", ha="center", size=7.5
        )


def _color(place: int) -> str:
    return KV_HEADS_COLORS[place * (len(KV_HEADS_COLORS) - 1) // (MAX_HEADS - 1)]


FIGURE = FigureSpec("frontier", "What a larger batch gives and costs", prepare, draw, per_stage=True)
