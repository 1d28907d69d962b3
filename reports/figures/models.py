"""Models side by side: what one token costs in cache over all layers, and how fast one layer attends."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gqabench.reports.figures.axes import (
    MAX_ARMS,
    arm_legend,
    arm_styles,
    draw_bars,
    latency_tick,
    linear_bytes_axis,
    log_number_axis,
)
from gqabench.reports.figures.palette import BAR_COLOR
from gqabench.reports.figures.spec import FigureData, FigureSpec, NotDrawn
from gqabench.reports.figures.theme import new_figure
from gqabench.reports.frames.baseline import in_speed_order
from gqabench.reports.frames.slices import axis_text, heads_text, slice_note, take_slice
from gqabench.reports.frames.tidy import cells, stages
from gqabench.reports.units import bytes_text, times_text

MAX_MODELS = 16
COST = "kv_cache_bytes_model_per_token"


def prepare(frame: pd.DataFrame) -> FigureData | NotDrawn:
    """Return every model's cache per token (any outcome has it) and its latencies, at one problem."""
    rows = frame[frame["model"].notna() & (frame[COST] > 0)]
    if rows["model"].nunique() < 2:
        names = list(rows["model"].unique())
        return NotDrawn(f"only one model was planned: {names[0]}" if names else "no record names a model")
    first = rows[rows["stage"] == stages(rows)[0]]
    drawn = take_slice(first, ("model", "num_kv_heads", "num_q_heads", "head_dim", "num_layers")).frame
    drawn = pd.concat([take_slice(of_model, ()).frame for _, of_model in drawn.groupby("model", sort=False)])
    costs = drawn.drop_duplicates("model").sort_values(COST, ascending=False, kind="stable").head(MAX_MODELS)
    if len(costs) < 2:
        return NotDrawn("no two models were planned on otherwise the same problem")
    drawn = drawn[drawn["model"].isin(costs["model"])]
    latencies = cells(drawn)
    latencies = latencies[latencies["arm"].isin(in_speed_order(latencies)[:MAX_ARMS])]
    most, least = costs.iloc[0], costs.iloc[-1]
    caption = (
        f"One token costs {most['model']} {bytes_text(most[COST])} of cache over all layers, "
        f"{least['model']} {bytes_text(least[COST])}: {times_text(most[COST] / least[COST])} less."
    )
    extras = {"models": [str(model) for model in costs["model"]], "latencies": latencies}
    return FigureData(costs, caption, slice_note(drawn, rows), extras=extras)


def draw(data: FigureData) -> Figure:
    """Draw bars of cache bytes at the left; at the right a marker for each implementation's latency."""
    models, latencies = data.extras["models"], data.extras["latencies"]
    figure = new_figure(0.34 * len(models) + 1.7)
    num_panels = 2 if len(latencies) else 1
    panels = figure.subplots(1, num_panels, squeeze=False, sharey=True)[0]
    _draw_costs(panels[0], data.frame, models)
    if len(latencies):
        _draw_latencies(panels[1], latencies, models)
        arm_legend(figure, {arm: arm_styles(latencies)[arm] for arm in in_speed_order(latencies)})
    return figure


def _draw_costs(axes: Axes, costs: pd.DataFrame, models: list[str]) -> None:
    draw_bars(axes, dict(zip(models, costs[COST], strict=True)), BAR_COLOR, 0.62)
    highest = float(costs[COST].max())
    shapes = zip(costs[COST], costs["num_q_heads"], costs["num_kv_heads"], strict=True)
    for place, (cost, num_q_heads, num_kv_heads) in enumerate(shapes):
        text = f"{bytes_text(cost)}  ({num_q_heads:g} query, {heads_text(num_kv_heads)})"
        axes.annotate(text, (cost, place), xytext=(5, 0), textcoords="offset points", va="center", size=8)
    axes.set_xlim(0, highest * 1.85)
    linear_bytes_axis(axes.xaxis, highest)
    axes.set_title("KV cache of one token")
    axes.set(xlabel="cache of one token, all layers (bytes)", ylabel="")


def _draw_latencies(axes: Axes, rows: pd.DataFrame, models: list[str]) -> None:
    styles = arm_styles(rows)
    for arm, style in styles.items():
        points = rows[rows["arm"] == arm]
        axes.scatter(
            points["latency_ms"], [models.index(model) for model in points["model"]], color=style.color,
            marker=style.marker, s=38, edgecolor="white", linewidth=0.5, zorder=3,
        )  # fmt: skip
    log_number_axis(axes.xaxis, rows["latency_ms"], latency_tick)
    first = rows.iloc[0]
    axes.set_title(
        ", ".join([first["stage"], *(axis_text(axis, first[axis]) for axis in ("kv_len", "batch_size"))])
    )
    axes.set(xlabel="latency of one call (ms)", ylabel="")


FIGURE = FigureSpec("models", "Models: cache of one token, and latency", prepare, draw)
