"""What fewer KV heads do to latency: each implementation relative to itself with as many as query heads."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from gqabench.reports.figures.axes import (
    MAX_ARMS,
    arm_legend,
    arm_styles,
    count_axis,
    draw_lines,
    label_line_ends,
    outer_labels,
    panel_grid,
)
from gqabench.reports.figures.palette import DOTTED, NEUTRAL
from gqabench.reports.figures.spec import NO_LATENCY, FigureData, FigureSpec, NotDrawn
from gqabench.reports.figures.theme import lay_out
from gqabench.reports.frames.baseline import in_speed_order
from gqabench.reports.frames.doubts import doubt_text
from gqabench.reports.frames.expansion import expanding_arms
from gqabench.reports.frames.problem import one_problem, where_text
from gqabench.reports.frames.slices import (
    Facets,
    axis_text,
    axis_values,
    heads_text,
    slice_note,
    spread_out,
    take_slice,
)
from gqabench.reports.frames.tidy import cells, stages
from gqabench.reports.units import listed, times_text
from gqabench.results.axes import PROBLEM_KEYS

MAX_CONTEXTS = 3
MAX_STAGES = 2
LOWEST_TOP = 0.45
"""The axis reaches at least this far down: what changes nothing shall look flat."""


def prepare(frame: pd.DataFrame) -> FigureData | NotDrawn:
    """Add the columns of `relative_to_mha`, and `place`: the panel of a row's context in its stage."""
    measured = cells(frame)
    rows = relative_to_mha(measured)
    if len(rows) == 0:
        return NotDrawn(_reason(measured))
    drawn = pd.concat([_of_stage(rows[rows["stage"] == stage]) for stage in stages(rows)[:MAX_STAGES]])
    arms = in_speed_order(drawn)[:MAX_ARMS]
    drawn = drawn[drawn["arm"].isin(arms)]
    places = tuple(range(int(drawn["place"].max()) + 1))
    facets = Facets("place", places, "stage", tuple(stages(drawn)))
    caption = _caption(drawn, measured, expanding_arms(frame))
    return FigureData(drawn, caption, slice_note(drawn, measured), facets, extras={"arms": arms})


def _reason(measured: pd.DataFrame) -> str:
    if len(measured) == 0:
        return NO_LATENCY
    is_mha = measured["num_kv_heads"] == measured["num_q_heads"]
    if not is_mha.any():
        return "nothing was measured with as many KV heads as query heads (MHA)"
    if is_mha.all():
        return "nothing was measured with fewer KV heads than query heads"
    return "no implementation was measured with MHA and with fewer KV heads on otherwise the same problem"


def _of_stage(rows: pd.DataFrame) -> pd.DataFrame:
    drawn = take_slice(rows, ("kv_len", "num_kv_heads")).frame
    contexts = spread_out(axis_values(drawn, "kv_len"), MAX_CONTEXTS)
    drawn = drawn[drawn["kv_len"].isin(contexts)]
    return drawn.assign(place=drawn["kv_len"].map({context: place for place, context in enumerate(contexts)}))


def relative_to_mha(rows: pd.DataFrame) -> pd.DataFrame:
    """Return cells of arms with several numbers of KV heads, one of them the number of query heads (MHA).

    `mha_flags` are those of the same arm with MHA: what is relative to a doubtful latency is doubtful.
    """
    keys = ["arm", *(axis for axis in PROBLEM_KEYS if axis != "num_kv_heads")]
    grouped = rows.groupby(keys, dropna=False)
    is_mha = rows["num_kv_heads"] == rows["num_q_heads"]
    mha_latency = (
        rows["latency_ms"].where(is_mha).groupby([rows[key] for key in keys], dropna=False).transform("min")
    )
    mha_bytes = (
        rows["model_bytes"].where(is_mha).groupby([rows[key] for key in keys], dropna=False).transform("min")
    )
    several = grouped["num_kv_heads"].transform("nunique") > 1
    place = grouped.ngroup()
    mha_flags = dict(zip(place[is_mha], rows.loc[is_mha, "flags"], strict=True))
    return rows.assign(
        relative_latency=rows["latency_ms"] / mha_latency,
        relative_bytes=rows["model_bytes"] / mha_bytes,
        mha_flags=place.map(mha_flags),
    )[several & mha_latency.notna()]


def _caption(frame: pd.DataFrame, measured: pd.DataFrame, expanding: list[str]) -> str:
    stage = frame["stage"].iloc[0]
    fewest = one_problem(frame[frame["stage"] == stage]).sort_values("relative_latency", kind="stable")
    best = fewest.iloc[0]
    where = where_text(best, measured[measured["stage"] == stage], ("kv_len", "batch_size"))
    text = (
        f"From {best['num_q_heads']:g} to {heads_text(best['num_kv_heads'])}, {stage} at {where} becomes "
        f"{_factor(best)} as fast with {best['arm']}{doubt_text(best['flags'], best['mha_flags'])}"
    )
    flat = fewest[fewest["arm"].isin(expanding)]
    if len(flat) == 0 or best["arm"] in expanding:
        return f"{text}."
    factors = [
        f"{_factor(row)} with {row['arm']}{doubt_text(row['flags'], row['mha_flags'])}"
        for _, row in flat.iterrows()
    ]
    verb = "which needs" if len(flat) == 1 else "which need"
    return f"{text}, but {listed(factors)}, {verb} as much workspace as the cache of MHA."


def _factor(row: Any) -> str:
    return times_text(1 / row["relative_latency"])


def draw(data: FigureData) -> Figure:
    """Draw lines: a falling one gains from fewer KV heads; a flat one pays for all query heads again."""
    styles = arm_styles(data.frame)
    styles = {arm: styles[arm] for arm in data.extras["arms"]}
    facets = data.facets
    figure, panels = panel_grid(facets, panel_height=3.1, lower_rows=0.6, sharey="row")
    for row, stage in enumerate(facets.rows):
        of_stage = data.frame[data.frame["stage"] == stage]
        for column, place in enumerate(facets.columns):
            rows = of_stage[of_stage["place"] == place]
            axes = panels[row][column]
            _draw_panel(axes, rows, styles)
            axes.set_title(f"{stage} · {axis_text('kv_len', rows['kv_len'].iloc[0])}" if len(rows) else "")
        values = pd.concat(
            [of_stage["relative_latency"], _ideal(of_stage)["relative_bytes"], pd.Series([1.1])]
        )
        _relative_axis(panels[row][0].yaxis, min(float(values.min()), LOWEST_TOP), float(values.max()))
    count_axis(panels[0][0].xaxis, data.frame["num_kv_heads"], text=lambda value: f"{value:g}")
    low, high = data.frame["num_kv_heads"].min(), data.frame["num_kv_heads"].max()
    panels[0][0].set_xlim(high * 1.15, low / 1.15)  # MHA at the left: to the right there are fewer
    outer_labels(panels, "KV heads (fewer →)", "latency relative to\nthe same impl with MHA")
    _name_lines(figure, panels, data, styles)
    return figure


def _ideal(rows: pd.DataFrame) -> pd.DataFrame:
    """Return bytes that must move, relative to MHA's: the bound of decoding."""
    return rows[(rows["q_len"] == 1) & rows["relative_bytes"].notna()].sort_values("num_kv_heads")


def _draw_panel(axes: Axes, rows: pd.DataFrame, styles: dict[str, Any]) -> None:
    axes.axhline(1.0, color=NEUTRAL, lw=0.9, zorder=1)
    if len(rows) == 0:
        return
    ideal = _ideal(rows).drop_duplicates("num_kv_heads")
    axes.plot(
        ideal["num_kv_heads"], ideal["relative_bytes"], color=NEUTRAL, linestyle=(0, DOTTED), lw=1.4, zorder=1
    )
    draw_lines(axes, rows, "num_kv_heads", "relative_latency", styles)


def _relative_axis(axis: Any, low: float, high: float) -> None:
    axis.axes.set_yscale("log")
    ticks = [2.0**power for power in range(-12, 13) if low / 1.5 <= 2.0**power <= high * 1.5]
    axis.set_major_locator(FixedLocator(ticks[:: max(len(ticks) // 6, 1)]))
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{round(1 / value)}")
    )
    axis.set_minor_locator(NullLocator())
    axis.axes.set_ylim(low / 1.15, high * 1.15)


def _name_lines(figure: Figure, panels: Any, data: FigureData, styles: dict[str, Any]) -> None:
    """Name lines beside the last panel of each row; a legend has those that do not reach its first."""
    fewest = float(data.frame["num_kv_heads"].min())
    last = data.frame[
        (data.frame["place"] == data.facets.columns[-1]) & (data.frame["num_kv_heads"] == fewest)
    ]
    named = set(last.loc[last["stage"] == data.facets.rows[0], "arm"])
    ideal = Line2D([], [], color=NEUTRAL, linestyle=(0, DOTTED), label="bytes to move, by the formula")
    arm_legend(figure, {arm: style for arm, style in styles.items() if arm not in named}, [ideal])
    lay_out(figure)
    for row, stage in enumerate(data.facets.rows):
        rows = last[last["stage"] == stage].drop_duplicates("arm").set_index("arm")["relative_latency"]
        ends = {arm: (fewest, float(rows[arm]), styles[arm].color) for arm in styles if arm in rows}
        label_line_ends(figure, panels[row][-1], ends)


FIGURE = FigureSpec("latency_by_kv_heads", "Who gains from fewer KV heads", prepare, draw)
