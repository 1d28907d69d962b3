"""What a figure of the report is: a frame prepared from the run's, and a drawing of that frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from gqabench.reports.frames.slices import Facets


@dataclass(frozen=True)
class FigureData:
    """Exactly what a figure draws."""

    frame: pd.DataFrame
    caption: str
    """One sentence of what to see, from the data."""
    note: str = ""
    """Which slice of the run is drawn, and what else was measured."""
    facets: Facets = field(default_factory=Facets)
    title: str | None = None
    """Instead of the spec's, where the data decides."""
    extras: dict[str, Any] = field(default_factory=dict)
    """What the drawing needs beside the frame, by name."""


@dataclass(frozen=True)
class NotDrawn:
    """Why a figure does not apply to a run: a statement about that run."""

    reason: str


NO_LATENCY = "no latency was measured"


@dataclass(frozen=True)
class FigureSpec:
    """One kind of figure."""

    name: str
    """File name without its ending; a figure of one stage adds `_STAGE`."""
    title: str
    prepare: Callable[[pd.DataFrame], FigureData | NotDrawn]
    """From a tidy frame (of one stage, if `per_stage`); the reason where the figure does not apply."""
    draw: Callable[[FigureData], Figure]
    per_stage: bool = False
    """One figure for each of decode, prefill and extend: their latencies have nothing in common."""
    instead: tuple[str, ...] = ()
    """Figures that show the same of other runs: where one of them is drawn, this one is not missed."""
