"""The table of figures, and the drawing of those that a run has the data for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from reports.figures import cache_bars, cache_lines, kv_heads, lines, models, ranking, speed_up, workspace
from reports.figures.spec import FigureData, FigureSpec
from reports.theme import png_bytes, svg_bytes, theme
from reports.tidy import stages

MAX_STAGES = 4

FIGURES = (
    FigureSpec(
        "kv_cache",
        "KV cache against context",
        "two contexts or more were planned",
        cache_lines.prepare,
        cache_lines.draw,
    ),
    FigureSpec(
        "kv_cache_by_heads",
        "KV cache by number of KV heads",
        "two numbers of KV heads or more were planned at one context",
        cache_bars.prepare,
        cache_bars.draw,
    ),
    FigureSpec(
        "models",
        "Models: cache of one token, and latency",
        "two models or more were planned",
        models.prepare,
        models.draw,
    ),
    FigureSpec(
        "latency_by_kv_heads",
        "Who gains from fewer KV heads",
        "an implementation was measured with as many KV heads as query heads (MHA) and with fewer",
        kv_heads.prepare,
        kv_heads.draw,
    ),
    FigureSpec(
        "workspace",
        "Workspace beside the cache",
        "the workspace of two rows or more was measured",
        workspace.prepare,
        workspace.draw,
    ),
    FigureSpec(
        "latency",
        "Latency",
        "two contexts or two batch sizes were measured",
        lines.prepare_latency,
        lines.draw_latency,
        per_stage=True,
    ),
    FigureSpec(
        "throughput",
        "Throughput",
        "two contexts or two batch sizes were measured",
        lines.prepare_throughput,
        lines.draw_throughput,
        per_stage=True,
    ),
    FigureSpec(
        "ranking",
        "Latency by implementation",
        "two rows or more were measured of one model at one context and one batch size",
        ranking.prepare,
        ranking.draw,
        per_stage=True,
    ),
    FigureSpec(
        "speed_up",
        "Speed-up",
        "two implementations or more were measured, the base among them",
        speed_up.prepare,
        speed_up.draw,
        per_stage=True,
    ),
)
"""In the order of the page."""


@dataclass(frozen=True)
class Drawing:
    """A finished figure."""

    name: str
    title: str
    caption: str
    note: str
    png: bytes
    svg: bytes


@dataclass(frozen=True)
class LeftOut:
    """A figure that the run has no data for."""

    title: str
    applies_when: str


def prepare_figures(frame: pd.DataFrame) -> Iterator[tuple[FigureSpec, str, FigureData | None]]:
    """For a tidy frame: every spec with its stage (empty if it has none) and its data, or None."""
    for spec in FIGURES:
        if not spec.per_stage:
            yield spec, "", spec.prepare(frame)
            continue
        prepared = [
            (stage, spec.prepare(frame[frame["stage"] == stage])) for stage in stages(frame)[:MAX_STAGES]
        ]
        applying = [(stage, data) for stage, data in prepared if data is not None]
        if not applying:
            yield spec, "", None
        for stage, data in applying:
            yield spec, stage, data


def draw_figures(frame: pd.DataFrame) -> tuple[list[Drawing], list[LeftOut]]:
    """Draw what a tidy frame has the data for; matplotlib's settings are left as they were."""
    drawings, left_out = [], []
    for spec, stage, data in prepare_figures(frame):
        if data is None:
            left_out.append(LeftOut(spec.title, spec.applies_when))
            continue
        with theme():
            figure = spec.draw(data)
            png, svg = png_bytes(figure), svg_bytes(figure)
        name = re.sub(r"\W+", "_", f"{spec.name}_{stage}") if stage else spec.name
        title = data.title or (f"{spec.title}, {stage}" if stage else spec.title)
        drawings.append(Drawing(name, title, data.caption, data.note, png, svg))
    if beyond := stages(frame)[MAX_STAGES:]:
        fewer = f"a report has no more than {MAX_STAGES} phases and workloads"
        left_out.append(LeftOut(f"Figures of {', '.join(beyond)}", fewer))
    return drawings, left_out
