"""From the records of a run to figures, tables and one self-contained page."""

from reports.page import build_report

__all__ = ["build_report"]
