"""Which display suits the place that a sweep was started from."""

from __future__ import annotations

import sys

from gqabench.harness.sweep.notebook_display import NotebookDisplay, in_notebook
from gqabench.harness.sweep.progress import BarDisplay, Display, LogDisplay


def make_display() -> Display:
    """Return a line in a notebook, a bar where standard error is a terminal, and lines elsewhere."""
    if in_notebook():
        return NotebookDisplay()
    return BarDisplay() if sys.stderr.isatty() else LogDisplay(sys.stderr)
