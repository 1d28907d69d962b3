"""Throughput against context (or batch): one line an implementation, one panel a slice."""

from __future__ import annotations

from gqabench.reports.figures.axes import rate_tick
from gqabench.reports.figures.latency import Measure, figure_of
from gqabench.reports.units import rate_text

THROUGHPUT = Measure(
    "tokens_per_s",
    "throughput of one call\n(tokens/s)",
    1,
    rate_tick,
    lambda rate: f"{rate_text(rate)} tokens/s",
)

FIGURE = figure_of("throughput", "Throughput", THROUGHPUT)
