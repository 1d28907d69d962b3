"""What the timed call of each implementation contains, as it declares: what a fair comparison must know."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gqabench.reports.frames.tidy import ok_rows
from gqabench.reports.tables.results_table import Cell, Column, Group, Table
from gqabench.reports.units import MISSING, count_text, listed

_PARTS = {
    "kv_expansion": "K/V expansion",
    "layout_conversion": "layout conversion",
    "dequantisation": "dequantisation",
    "cache_append": "cache append",
    "planning": "planning",
    "num_launches": "launches",
}
_LAUNCHES = "num_launches"
TIMED_CALL_MEANING = (
    "What the timed call contains beside attention over K and V that are in the cache already, as each "
    "implementation declares. Tiles: of some tokens at a time; whole: of all of K and V at once, so that the "
    "copy is workspace; not known: left to a library, which chooses."
)
_LAUNCHES_MEANING = (
    "Launches: as declared, else as the profiler counted them on a GPU, copies and fills among them."
)


def timed_calls_table(frame: pd.DataFrame) -> Table:
    """Return a line for each implementation; one for each stage where they differ. Empty if nobody says."""
    rows = ok_rows(frame)
    parts = [part for part in _PARTS if _matters(rows, part)]
    calls: dict[str, dict[str, dict[str, Any]]] = {}  # of each arm, by declaration and by first stage
    silent: list[str] = []
    launches = _measured_launches(rows)
    for arm, stage, declared in zip(rows["arm"], rows["stage"], rows["timed_call"], strict=True):
        if declared is None:
            silent.append(str(arm))
        elif declared not in (of_arm := calls.setdefault(str(arm), {})).values():
            of_arm[str(stage)] = declared
    lines = tuple(
        (
            Cell(f"{arm}, {stage}" if len(of_arm) > 1 else arm),
            *(Cell(_part_text(declared.get(part), launches.get((arm, stage)))) for part in parts),
        )
        for arm, of_arm in calls.items()
        for stage, declared in of_arm.items()
    )
    notes = [f"Not declared: {listed(list(dict.fromkeys(silent)))}."] if silent else []
    notes += [_LAUNCHES_MEANING] if _LAUNCHES in parts else []
    columns = (Column("impl"), *(Column(_PARTS[part], part == _LAUNCHES) for part in parts))
    return Table(columns, (Group("", lines),) if lines else (), " ".join(notes))


def _matters(rows: pd.DataFrame, part: str) -> bool:
    """Return whether some row could have a part: without quantised caches, none dequantises."""
    if part == "kv_expansion":
        return bool((rows["group_size"] > 1).any())
    if part == "dequantisation":
        return bool(rows["kv_dtype"].notna().any())
    if part == _LAUNCHES:
        is_declared = any(one is not None and one.get(part) is not None for one in rows["timed_call"])
        return is_declared or bool(rows[_LAUNCHES].notna().any())
    return True


def _measured_launches(rows: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Return by arm and stage how many kernels a call launched: `3`, or `3 to 5` where problems differ."""
    counted = rows[rows[_LAUNCHES].notna()].groupby(["arm", "stage"])[_LAUNCHES].agg(["min", "max"])
    return {
        (str(arm), str(stage)): f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"
        for (arm, stage), low, high in counted.itertuples(name=None)
    }


def _part_text(declared: Any, measured: str | None) -> str:
    """Return a part as text. `measured` is of the launches, the one part that may be declared unknown."""
    if isinstance(declared, bool):
        return "yes" if declared else "no"
    if declared is None:
        return measured or MISSING
    return declared if isinstance(declared, str) else count_text(declared)
