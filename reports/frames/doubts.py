"""What a sentence may claim: numbers with their flags, and winners only beyond the intervals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd


def doubt_text(*flags: Iterable[str]) -> str:
    """Return the flags of some numbers as text after them: ` (unstable)`; empty where there are none."""
    names = list(dict.fromkeys(name for some in flags for name in some))
    return f" ({', '.join(name.replace('_', ' ') for name in names)})" if names else ""


def unflagged(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return the rows without a flag in any of the columns (`flags`, where none is named)."""
    is_clean = pd.Series(True, index=rows.index)
    for column in columns or ("flags",):
        is_clean &= ~rows[column].map(bool).astype(bool)
    return rows[is_clean]


def unflagged_first(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return the rows without a flag; all of them where every row has one."""
    clean = unflagged(rows, *columns)
    return clean if len(clean) else rows


def all_flags(rows: pd.DataFrame, *columns: str) -> list[str]:
    """Return the distinct flags of some rows, as met."""
    return list(
        dict.fromkeys(name for column in columns or ("flags",) for some in rows[column] for name in some)
    )


def low_end(rows: pd.DataFrame) -> pd.Series[Any]:
    """Return the lower end of each latency's interval; the latency where there is no interval."""
    return rows["latency_ci_low_ms"].fillna(rows["latency_ms"])


def high_end(rows: pd.DataFrame) -> pd.Series[Any]:
    """Return the upper end of each latency's interval; the latency where there is no interval."""
    return rows["latency_ci_high_ms"].fillna(rows["latency_ms"])


def fastest_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one problem's row of the least latency and those whose intervals overlap its own, in order."""
    ordered = rows.sort_values("latency_ms", kind="stable")
    level = (low_end(ordered) <= high_end(ordered).iloc[0]) | (ordered.index == ordered.index[0])
    fastest: pd.DataFrame = ordered[level]
    return fastest
