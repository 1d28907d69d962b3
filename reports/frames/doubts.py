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


def fastest_rows(rows: pd.DataFrame, problem: pd.Series[Any] | None = None) -> pd.DataFrame:
    """Return the row of the least latency and those whose intervals overlap its own, in order.

    Those of one problem; of each one where `problem` says which row is of which.
    """
    ordered = rows.sort_values("latency_ms", kind="stable")
    of = pd.Series(0, index=ordered.index) if problem is None else problem.loc[ordered.index]
    is_first = ~of.duplicated()
    reach = of.map(pd.Series(high_end(ordered)[is_first].to_numpy(), index=of[is_first]))
    fastest: pd.DataFrame = ordered[(low_end(ordered) <= reach) | is_first]
    return fastest
