"""Who is fastest on one problem: no winner where intervals overlap, no number without its doubt."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from gqabench.reports.frames.baseline import base_arm
from gqabench.reports.frames.doubts import doubt_text, fastest_rows
from gqabench.reports.units import listed, times_text

MAX_NAMED = 4


def fastest_text(rows: pd.DataFrame, column: str, text: Callable[[float], str]) -> str:
    """Return `A is fastest with 1 ms; B takes 3 ms, 3× as long.` for the rows of one problem and a column.

    The column is the latency, or the throughput, which follows from it.
    """
    is_time = column == "latency_ms"
    fastest = fastest_rows(rows)
    best = fastest.iloc[0]
    numbers = [
        f"{text(row[column])}{doubt_text(row['flags'])}" for _, row in fastest.head(MAX_NAMED).iterrows()
    ]
    if len(fastest) == 1:
        sentence = f"{best['arm']} {'is fastest with' if is_time else 'delivers most,'} {numbers[0]}"
    else:
        arms = listed([str(arm) for arm in fastest["arm"]], limit=MAX_NAMED)
        verb = (
            "are fastest, within their intervals, with"
            if is_time
            else "deliver most, within their intervals:"
        )
        sentence = f"{arms} {verb} {listed(numbers)}"
    base = base_arm(rows)
    if base is None or base in set(fastest["arm"]):
        return f"{sentence}."
    other = rows[rows["arm"] == base].iloc[0]
    factor = times_text(other["latency_ms"] / best["latency_ms"])
    verb, amount = ("takes", "as long") if is_time else ("reaches", "less")
    than = "" if len(fastest) == 1 else f" {'as' if is_time else 'than'} {best['arm']}"
    number = f"{text(other[column])}{doubt_text(other['flags'])}"
    return f"{sentence}; {base} {verb} {number}, {factor} {amount}{than}."
