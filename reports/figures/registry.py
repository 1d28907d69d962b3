"""The table of figures, and the drawing of those that a run has the data for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module

import pandas as pd

from gqabench.reports.figures.spec import FigureData, FigureSpec, NotDrawn
from gqabench.reports.figures.theme import freeze_layout, png_bytes, svg_bytes, theme
from gqabench.reports.frames.tidy import stages

MAX_STAGES = 4

MODULES = (
    "cache_lines",
    "cache_bars",
    "models",
    "kv_heads",
    "workspace",
    "latency",
    "throughput",
    "ranking",
    "frontier",
    "roof_share",
    "speed_up",
)
"""One line a figure, in the order of the page: the module beside this one whose `FIGURE` it is."""


def _figure(module: str) -> FigureSpec:
    figure = import_module(f"gqabench.reports.figures.{module}").FIGURE
    assert isinstance(figure, FigureSpec), f"{module}.FIGURE must be a FigureSpec"
    return figure


FIGURES = tuple(_figure(module) for module in MODULES)


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
    """A figure that the run has no data for, and what it lacks."""

    title: str
    reason: str


def prepare_figures(frame: pd.DataFrame) -> Iterator[tuple[FigureSpec, str, FigureData | NotDrawn]]:
    """Yield every spec, for each stage if it is of one stage (else empty), and its data from a tidy frame."""
    for spec in FIGURES:
        if not spec.per_stage:
            yield spec, "", spec.prepare(frame)
            continue
        for stage in stages(frame)[:MAX_STAGES]:
            yield spec, stage, spec.prepare(frame[frame["stage"] == stage])


def draw_figures(frame: pd.DataFrame) -> tuple[list[Drawing], list[LeftOut]]:
    """Draw what a tidy frame has the data for; matplotlib's settings are left as they were."""
    if len(frame) == 0:
        return [], [LeftOut("All figures", "there are no records yet")]
    prepared = list(prepare_figures(frame))
    drawings = [_drawing(spec, stage, data) for spec, stage, data in prepared if isinstance(data, FigureData)]
    left_out = _left_out(prepared, stages(frame)[:MAX_STAGES])
    if beyond := stages(frame)[MAX_STAGES:]:
        fewer = f"a report has no more than {MAX_STAGES} phases and workloads"
        left_out.append(LeftOut(f"Figures of {', '.join(beyond)}", fewer))
    return drawings, left_out


def _drawing(spec: FigureSpec, stage: str, data: FigureData) -> Drawing:
    with theme():
        figure = spec.draw(data)
        freeze_layout(figure)
        png, svg = png_bytes(figure), svg_bytes(figure)
    name = re.sub(r"\W+", "_", f"{spec.name}_{stage}") if stage else spec.name
    title = data.title or (f"{spec.title}, {stage}" if stage else spec.title)
    return Drawing(name, title, data.caption, data.note, png, svg)


def _left_out(
    prepared: Sequence[tuple[FigureSpec, str, FigureData | NotDrawn]], all_stages: Sequence[str]
) -> list[LeftOut]:
    """Return figures that were not drawn, with the reason: one line where it holds for all stages.

    A figure whose place another one took is not among them.
    """
    drawn = {(spec.name, stage) for spec, stage, data in prepared if isinstance(data, FigureData)}
    stages_of: dict[tuple[str, str], list[str]] = {}
    for spec, stage, data in prepared:
        if isinstance(data, NotDrawn) and not any((name, stage) in drawn for name in spec.instead):
            stages_of.setdefault((spec.title, data.reason), []).append(stage)
    return [
        LeftOut(title if of in ([""], list(all_stages)) else f"{title}, {' and '.join(of)}", reason)
        for (title, reason), of in stages_of.items()
    ]
