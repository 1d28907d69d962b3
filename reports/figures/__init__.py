"""The figures of a report: each takes a frame and gives a figure, or says when it would apply."""

from gqabench.reports.figures.registry import FIGURES, Drawing, LeftOut, draw_figures
from gqabench.reports.figures.spec import FigureData, FigureSpec

__all__ = ["FIGURES", "Drawing", "FigureData", "FigureSpec", "LeftOut", "draw_figures"]
