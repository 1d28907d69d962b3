"""KV-cache bytes by number of KV heads, where only one context was measured."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from gqabench.reports.figures.axes import draw_bars, linear_bytes_axis
from gqabench.reports.figures.cache_lines import WHERE_AXES, held_text
from gqabench.reports.figures.palette import BAR_COLOR
from gqabench.reports.figures.spec import FigureData, FigureSpec, NotDrawn
from gqabench.reports.figures.theme import new_figure
from gqabench.reports.frames.problem import where_text
from gqabench.reports.frames.slices import axis_text, axis_values, heads_text, spread_out, take_slice
from gqabench.reports.units import bytes_text, times_text

MAX_BARS = 8


def prepare(frame: pd.DataFrame) -> FigureData | NotDrawn:
    """Return one row for each number of KV heads, by the formula."""
    rows = frame[frame["kv_cache_bytes_model"] > 0]
    if reason := _reason(rows):
        return NotDrawn(reason)
    drawn = take_slice(rows, free=("num_kv_heads",), all_rows=rows)
    heads = spread_out(axis_values(drawn.frame, "num_kv_heads"), MAX_BARS)
    if len(heads) < 2:
        return NotDrawn("no two numbers of KV heads were planned on otherwise the same problem")
    kept = drawn.frame[drawn.frame["num_kv_heads"].isin(heads)]
    bars = kept.drop_duplicates("num_kv_heads").sort_values("num_kv_heads", ascending=False)
    bars = bars.assign(label=[axis_text("num_kv_heads", value, kept) for value in bars["num_kv_heads"]])
    most, fewest = bars.iloc[0], bars.iloc[-1]
    ratio = most["kv_cache_bytes_model"] / fewest["kv_cache_bytes_model"]
    of_stage = rows[rows["stage"] == most["stage"]]
    exactly = "exactly " if ratio == most["num_kv_heads"] / fewest["num_kv_heads"] else ""
    caption = (
        f"From {most['num_kv_heads']:g} to {heads_text(fewest['num_kv_heads'])} the cache falls by {exactly}"
        f"{times_text(ratio)} (one layer, {where_text(most, of_stage, WHERE_AXES)}). "
        + held_text(kept[kept["outcome"] == "ok"])
    )
    return FigureData(bars, caption.strip(), drawn.note)


def _reason(rows: pd.DataFrame) -> str:
    """Return why nothing can be drawn; empty where it can, as far as whole columns tell."""
    if len(rows) == 0:
        return "no row has the size of its cache"
    if rows["num_kv_heads"].nunique() < 2:
        return f"only {heads_text(rows['num_kv_heads'].iloc[0])} {_was(rows['num_kv_heads'].iloc[0])} planned"
    if rows["model"].nunique(dropna=False) > 1 and not _varies_within_a_model(rows):
        return "each model was planned with one number of KV heads"
    if rows["kv_len"].nunique() > 1:
        return f"{rows['kv_len'].nunique()} contexts were planned, and bars show one"
    return ""


def _was(count: float) -> str:
    return "was" if count == 1 else "were"


def _varies_within_a_model(rows: pd.DataFrame) -> bool:
    return bool(rows.groupby("model", dropna=False)["num_kv_heads"].nunique().max() > 1)


def draw(data: FigureData) -> Figure:
    """Draw a bar for each number of KV heads, with its bytes and its share of the largest."""
    bars = data.frame
    figure = new_figure(0.42 * len(bars) + 1.1, 7.6)
    axes = figure.subplots()
    draw_bars(axes, dict(zip(bars["label"], bars["kv_cache_bytes_model"], strict=True)), BAR_COLOR, 0.62)
    highest = float(bars["kv_cache_bytes_model"].max())
    for place, value in enumerate(bars["kv_cache_bytes_model"]):
        share = "" if value == highest else f"   {times_text(highest / value)} smaller"
        axes.text(value + highest * 0.012, place, f"{bytes_text(value)}{share}", va="center", size=9)
    axes.set_xlim(0, highest * 1.18)
    linear_bytes_axis(axes.xaxis, highest)
    axes.set(xlabel="KV cache of one layer (bytes)", ylabel="")
    return figure


FIGURE = FigureSpec(
    "kv_cache_by_heads", "KV cache by number of KV heads", prepare, draw, instead=("kv_cache",)
)
