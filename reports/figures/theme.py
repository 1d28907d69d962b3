"""The look of all figures, applied around the drawing and taken back; figures as PNG and SVG bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK = "#1F2933"
GRID = "#E4E7EB"
FIGURE_WIDTH = 10.0
"""Inches; the page shows it about as wide as its text."""
PNG_DPI = 144

_SETTINGS: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#9AA5B1",
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.bottom": True,
    "axes.spines.left": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.autolayout": False,  # each figure asks for its layout
    "figure.constrained_layout.use": False,
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same figure on every machine
    "font.size": 9,
    "grid.color": GRID,
    "grid.linestyle": "-",
    "grid.linewidth": 0.8,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 6.0,
    "lines.solid_capstyle": "round",
    "patch.edgecolor": "white",
    "patch.force_edgecolor": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "gqabench",
    "text.color": INK,
    "xtick.bottom": False,
    "xtick.color": INK,
    "xtick.direction": "out",
    "xtick.labelsize": 8.5,
    "xtick.top": False,
    "ytick.color": INK,
    "ytick.direction": "out",
    "ytick.labelsize": 8.5,
    "ytick.left": False,
    "ytick.right": False,
}


@contextmanager
def theme() -> Iterator[None]:
    """Make figures look like ours; afterwards matplotlib's settings are what they were."""
    with mpl.rc_context(_SETTINGS):
        yield


class NotebookFigure(Figure):
    """A figure that a notebook shows by itself, though `matplotlib.pyplot` does not know it."""

    def _repr_png_(self) -> bytes:
        return png_bytes(self)


def new_figure(height: float, width: float = FIGURE_WIDTH) -> Figure:
    """Return an empty figure in inches. It belongs to no window and leaves the caller's backend alone."""
    figure = NotebookFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def lay_out(figure: Figure) -> None:
    """Place the axes as they are to be, which what is then written beside them can go by."""
    engine = figure.get_layout_engine()
    assert engine is not None, "the layout was frozen"
    if figure.axes:
        engine.execute(figure)


def freeze_layout(figure: Figure) -> None:
    """Keep the layout that the PNG has: to lay a figure out takes as long as to draw it.

    Matplotlib makes one for each file, and draws the figure twice to do so.
    """
    figure.set_dpi(PNG_DPI)
    lay_out(figure)
    figure.set_layout_engine(None)


def png_bytes(figure: Figure) -> bytes:
    """Return the figure as PNG, without a date: the same figure gives the same bytes."""
    return _saved(figure, format="png", dpi=PNG_DPI, metadata={"Software": None})


def svg_bytes(figure: Figure) -> bytes:
    """Return the figure as SVG, text as outlines, without a date."""
    return _saved(figure, format="svg", metadata={"Date": None, "Creator": None})


def _saved(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, **options)
    return buffer.getvalue()
