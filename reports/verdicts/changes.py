"""Relative changes as text."""

from __future__ import annotations

from gqabench.reports.units import MISSING


def change_text(change: float | None) -> str:
    """Return a relative change: `+5.3 %`, `-30 %`, `+0.0012 %`."""
    if change is None:
        return MISSING
    per_cent = change * 100
    if per_cent == 0:
        return "0 %"
    digits = 1 if abs(per_cent) >= 0.1 else 4
    return f"{per_cent:+,.{0 if abs(per_cent) >= 100 else digits}f} %"
