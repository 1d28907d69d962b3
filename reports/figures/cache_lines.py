"""KV-cache bytes against context: lines are the formula, markers are what implementations hold."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gqabench.reports.figures.axes import arm_styles, count_axis, label_line_ends, log_bytes_axis
from gqabench.reports.figures.palette import KV_HEADS_COLORS, NEUTRAL
from gqabench.reports.figures.spec import FigureData, FigureSpec, NotDrawn
from gqabench.reports.figures.theme import lay_out, new_figure
from gqabench.reports.frames.problem import where_text
from gqabench.reports.frames.slices import axis_values, heads_kind, heads_text, spread_out, take_slice
from gqabench.reports.units import bytes_text, listed, times_text, tokens_text

MAX_LINES = 6
WHERE_AXES = ("kv_len", "batch_size")
EXACT = 1.005
"""A cache within half a percent of the formula lies on its line."""


def prepare(frame: pd.DataFrame) -> FigureData | NotDrawn:
    """Return rows at two contexts or more; every outcome has a formula's line, only `ok` has a marker."""
    rows = frame[(frame["kv_cache_bytes_model"] > 0)]
    drawn = take_slice(rows, free=("kv_len", "num_kv_heads"))
    if drawn.frame["kv_len"].nunique() < 2:
        return NotDrawn(_reason(rows))
    heads = spread_out(axis_values(drawn.frame, "num_kv_heads"), MAX_LINES)
    kept = drawn.frame[drawn.frame["num_kv_heads"].isin(heads)].copy()
    kept["kv_cache_bytes"] = kept["kv_cache_bytes"].where(kept["outcome"] == "ok")
    return FigureData(kept, _caption(kept, rows), drawn.note)


def _reason(rows: pd.DataFrame) -> str:
    if len(rows) == 0:
        return "no row has the size of its cache"
    if rows["kv_len"].nunique() < 2:
        return f"only context {tokens_text(rows['kv_len'].iloc[0])} was planned"
    return "no problem was planned at two contexts"


def _caption(frame: pd.DataFrame, planned: pd.DataFrame) -> str:
    longest = frame[frame["kv_len"] == frame["kv_len"].max()]
    by_heads = longest.groupby("num_kv_heads")["kv_cache_bytes_model"].first()
    most, fewest = by_heads.index.max(), by_heads.index.min()
    first = longest.iloc[0]
    where = f"in one layer, at {where_text(first, planned[planned['stage'] == first['stage']], WHERE_AXES)}"
    if most == fewest:
        text = f"{heads_text(most)} need {bytes_text(by_heads[most])} of cache {where}."
    else:
        ratio = by_heads[most] / by_heads[fewest]
        exactly = "exactly " if ratio == most / fewest else ""
        text = (
            f"From {most:g} to {heads_text(fewest)} the cache falls by {exactly}{times_text(ratio)}: "
            f"{bytes_text(by_heads[most])} to {bytes_text(by_heads[fewest])} {where}."
        )
    return f"{text} {held_text(frame)}".strip()


def held_text(frame: pd.DataFrame) -> str:
    """Return whether the implementations hold what the formula says; empty where nothing was measured."""
    held = frame[frame["kv_cache_bytes"].notna() & (frame["kv_cache_bytes_model"] > 0)]
    if len(held) == 0:
        return ""
    ratios = (held["kv_cache_bytes"] / held["kv_cache_bytes_model"]).groupby(held["arm"]).agg(["min", "max"])
    off = ratios[(ratios["max"] > EXACT) | (ratios["min"] < 1 / EXACT)]
    if len(off) == 0:
        return "All measured caches hold exactly what the formula says."
    texts = [
        f"{arm} {times_text(row['max'] if row['max'] > EXACT else row['min'])}" for arm, row in off.iterrows()
    ]
    exact = [str(arm) for arm in ratios.index.difference(off.index)]
    rest = f" The others hold exactly its bytes: {listed(exact)}." if exact else ""
    return f"Over the formula's bytes: {listed(texts)}.{rest}"


def draw(data: FigureData) -> Figure:
    """Draw one line for each number of KV heads, named at its end."""
    frame = data.frame
    figure = new_figure(4.4, 7.6)
    axes = figure.subplots()
    heads = axis_values(frame, "num_kv_heads")
    shades = spread_out(KV_HEADS_COLORS[: max(len(heads), 4)], max(len(heads), 2))
    colors = dict(zip(heads, shades, strict=False))
    lines = frame.drop_duplicates(["num_kv_heads", "kv_len"])
    for num_kv_heads, line in lines.sort_values(["kv_len", "kv_cache_bytes_model"]).groupby("num_kv_heads"):
        axes.plot(line["kv_len"], line["kv_cache_bytes_model"], color=colors[num_kv_heads])
    handles = _draw_markers(axes, frame, colors)
    count_axis(axes.xaxis, frame["kv_len"])
    log_bytes_axis(axes.yaxis, pd.concat([frame["kv_cache_bytes_model"], frame["kv_cache_bytes"].dropna()]))
    axes.set(xlabel="context (tokens)", ylabel="KV cache of one layer (bytes)")
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3))
    lay_out(figure)
    label_line_ends(figure, axes, _ends(lines, colors), size=9.5)
    return figure


def _draw_markers(axes: Any, frame: pd.DataFrame, colors: dict[Any, str]) -> list[Line2D]:
    held = frame[frame["kv_cache_bytes"].notna()]
    ratio = held["kv_cache_bytes"] / held["kv_cache_bytes_model"]
    on_line = (ratio <= EXACT) & (ratio >= 1 / EXACT)
    points = held[on_line].drop_duplicates(["num_kv_heads", "kv_len"])
    shades = [colors[value] for value in points["num_kv_heads"]]
    axes.scatter(
        points["kv_len"],
        points["kv_cache_bytes"],
        s=36,
        facecolor="white",
        edgecolor=shades,
        zorder=3,
        lw=1.5,
    )
    handles = [Line2D([], [], color=NEUTRAL, label="formula")]
    if len(points):
        handles.append(
            Line2D(
                [],
                [],
                color=NEUTRAL,
                marker="o",
                linestyle="",
                markerfacecolor="white",
                label="as held by the implementations",
            )
        )
    off = held[~on_line]
    for arm, style in arm_styles(off).items():
        rows = off[off["arm"] == arm]
        axes.scatter(
            rows["kv_len"], rows["kv_cache_bytes"], color=style.color, marker=style.marker, s=30, zorder=4
        )
        handles.append(
            Line2D([], [], color=style.color, marker=style.marker, linestyle="", label=f"as held by {arm}")
        )
    return handles


def _ends(lines: pd.DataFrame, colors: dict[Any, str]) -> dict[str, tuple[float, float, str]]:
    ends = {}
    for place, (heads, color) in enumerate(colors.items()):
        line = lines[lines["num_kv_heads"] == heads].sort_values("kv_len")
        kinds = {heads_kind(heads, num_q_heads) for num_q_heads in line["num_q_heads"]}
        kind = f" ({kinds.pop()})" if len(kinds) == 1 else ""
        name = heads_text(heads) if place == 0 else f"{heads:g}"
        last = line.iloc[-1]
        ends[f"{name}{kind}"] = (float(last["kv_len"]), float(last["kv_cache_bytes_model"]), color)
    return ends


FIGURE = FigureSpec("kv_cache", "KV cache against context", prepare, draw, instead=("kv_cache_by_heads",))
