"""From the records of a run to figures, tables and one self-contained page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gqabench.reports.page import build_report

__all__ = ["build_report"]


def __getattr__(name: str) -> object:
    """Load `build_report` when it is asked for: verdicts are printed without waiting for seaborn."""
    if name != "build_report":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gqabench.reports.page import build_report

    return build_report
