"""The look of all figures, applied around the drawing and taken back; figures as PNG and SVG bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK = "#1F2933"
GRID = "#E4E7EB"
FIGURE_WIDTH = 10.0
"""Inches; the page shows it about as wide as its text."""
PNG_DPI = 144

_OVERRIDES: dict[str, Any] = {
    "axes.edgecolor": "#9AA5B1",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same figure on every machine
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 6.0,
    "svg.fonttype": "path",
    "svg.hashsalt": "gqabench",
    "text.color": INK,
    "xtick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": INK,
    "ytick.labelsize": 8.5,
}


@contextmanager
def theme() -> Iterator[None]:
    """Make figures look like ours; afterwards matplotlib's settings are what they were."""
    settings: dict[Any, Any] = {**sns.axes_style("whitegrid"), **_OVERRIDES}
    with mpl.rc_context(settings):
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
