"""Old records keep loading: each entry lifts a record dictionary from one schema version to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING
from typing import Any

from gqabench.results.columns import COLUMNS
from gqabench.results.record import LATENCY_FIELDS, POSITIVE_FIELDS, SCHEMA_VERSION, Outcome, record_faults


def _without_what_is_excluded(row: dict[str, Any]) -> dict[str, Any]:
    """Lift from version 2 to 3, which refuses what the columns exclude.

    A 0 that stood for "not measured" becomes null; `ok` without a latency becomes `error`; a missing reason
    is said to be missing; the latency of a row that is not `ok` goes.
    """
    lifted = dict(row)
    for name in POSITIVE_FIELDS:
        value = lifted.get(name)
        if isinstance(value, int | float) and value <= 0:
            lifted[name] = None
    if lifted.get("outcome") == Outcome.OK and lifted.get("latency_ms") is None:
        lifted |= {"outcome": Outcome.ERROR.value, "reason": "stored as ok, but without a latency"}
    if lifted.get("outcome") != Outcome.OK:
        lifted |= dict.fromkeys(LATENCY_FIELDS)
        lifted["reason"] = lifted.get("reason") or "no reason was stored"
    return lifted


UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: dict, 2: _without_what_is_excluded}
"""From version `n` to `n + 1`, for every `n` below `SCHEMA_VERSION`. 2 added columns that may be null."""

_DEFAULTS = {column.name: column.default for column in COLUMNS.values() if column.default is not MISSING}
_ACCEPTS = {column.name: column.type.accepts for column in COLUMNS.values()}
_REQUIRED = [column.name for column in COLUMNS.values() if column.default is MISSING]


def upgrade(row: Any) -> dict[str, Any]:
    """Return a record dictionary of any known version as one of the current version with every field.

    Raises `ValueError` for something that is no record, or one of a newer version.
    """
    if not isinstance(row, dict) or not isinstance(row.get("schema_version"), int):
        raise ValueError("not a record of gqabench: no schema_version")
    version = row["schema_version"]
    if version > SCHEMA_VERSION:
        raise ValueError(f"schema_version={version}: newer than this gqabench reads ({SCHEMA_VERSION})")
    _require_types(row)
    for step in range(version, SCHEMA_VERSION):
        if step not in UPGRADES:
            raise ValueError(f"schema_version={version}: unknown; valid: 1 to {SCHEMA_VERSION}")
        row = UPGRADES[step](row)
    if missing := [name for name in _REQUIRED if name not in row]:
        raise ValueError(f"not a record of gqabench: no {', '.join(missing)}")
    if row["outcome"] not in set(Outcome):
        raise ValueError(f"outcome={row['outcome']}: must be one of {', '.join(Outcome)}")
    if faults := record_faults(row):
        raise ValueError("; ".join(faults))
    return {**_DEFAULTS, **_derived(row), **row, "schema_version": SCHEMA_VERSION}


def _derived(row: dict[str, Any]) -> dict[str, Any]:
    """Return columns that an older record lacks and that follow from others."""
    low, high, middle = (row.get(name) for name in ("latency_ci_low_ms", "latency_ci_high_ms", "latency_ms"))
    if low is None or high is None or middle is None:
        return {}
    return {"latency_half_interval": (high - low) / (2 * middle)}


def _require_types(row: dict[str, Any]) -> None:
    for name, value in row.items():
        if value is not None and name in _ACCEPTS and not _ACCEPTS[name](value):
            raise ValueError(f"{name}={value!r}: not a value that a record has there")
