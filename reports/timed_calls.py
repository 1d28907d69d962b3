"""What the timed call of each implementation contains, as it declares: what a fair comparison must know."""

from __future__ import annotations

from typing import Any

import pandas as pd

from reports.tables import Cell, Column, Group, Table
from reports.tidy import ok_rows
from reports.units import MISSING, count_text, listed

_PARTS = {
    "kv_expansion": "K/V expansion",
    "layout_conversion": "layout conversion",
    "dequantisation": "dequantisation",
    "cache_append": "cache append",
    "planning": "planning",
    "num_launches": "launches",
}
TIMED_CALL_MEANING = (
    "What the timed call contains beside attention over K and V that are in the cache already, as each "
    "implementation declares. Tiles: of some tokens at a time; whole: of all of K and V at once, so that the "
    "copy is workspace; not known: left to a library, which chooses."
)


def timed_calls_table(frame: pd.DataFrame) -> Table:
    """One line for each implementation; one for each stage where they differ. Empty where nobody says."""
    rows = ok_rows(frame)
    parts = [part for part in _PARTS if _matters(rows, part)]
    calls: dict[str, dict[str, dict[str, Any]]] = {}  # of each arm, by declaration and by first stage
    silent: list[str] = []
    for arm, stage, declared in zip(rows["arm"], rows["stage"], rows["timed_call"], strict=True):
        if declared is None:
            silent.append(str(arm))
        elif declared not in (of_arm := calls.setdefault(str(arm), {})).values():
            of_arm[str(stage)] = declared
    lines = tuple(
        (
            Cell(f"{arm}, {stage}" if len(of_arm) > 1 else arm),
            *(Cell(_part_text(declared.get(part))) for part in parts),
        )
        for arm, of_arm in calls.items()
        for stage, declared in of_arm.items()
    )
    note = f"Not declared: {listed(list(dict.fromkeys(silent)))}." if silent else ""
    columns = (Column("impl"), *(Column(_PARTS[part], part == "num_launches") for part in parts))
    return Table(columns, (Group("", lines),) if lines else (), note)


def _matters(rows: pd.DataFrame, part: str) -> bool:
    """A part that no row could have, such as dequantising where nothing is quantised, has no column."""
    if part == "kv_expansion":
        return bool((rows["group_size"] > 1).any())
    if part == "dequantisation":
        return bool(rows["kv_dtype"].notna().any())
    if part == "num_launches":
        return any(declared is not None and declared.get(part) is not None for declared in rows["timed_call"])
    return True


def _part_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return MISSING
    return value if isinstance(value, str) else count_text(value)
