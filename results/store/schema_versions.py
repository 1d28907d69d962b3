"""Old records keep loading: each entry lifts a record dictionary from one schema version to the next."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from gqabench.results.record import SCHEMA_VERSION, Outcome, Record

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: dict}
"""From version `n` to `n + 1`, for every `n` below `SCHEMA_VERSION`."""

_DEFAULTS = {
    item.name: item.default_factory() if item.default_factory is not MISSING else item.default
    for item in fields(Record)
    if item.default is not MISSING or item.default_factory is not MISSING
}
_REQUIRED = [item.name for item in fields(Record) if item.name not in _DEFAULTS]


def _checker(hint: Any) -> Callable[[Any], bool] | None:
    """Whether a value that is not null is of a field's type; None for types that nobody calculates with."""
    members = {
        get_origin(one) or one for one in (get_args(hint) if get_origin(hint) is UnionType else (hint,))
    }
    if float in members:
        return _is_number
    if int in members:
        return lambda value: isinstance(value, int) and not isinstance(value, bool)
    if str in members or Outcome in members:
        return lambda value: isinstance(value, str)
    if list[float] in (hint, *get_args(hint)):
        return lambda value: isinstance(value, list) and all(map(_is_number, value))
    if list[str] in (hint, *get_args(hint)):
        return lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value)
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_VALID = {
    name: check for name, hint in get_type_hints(Record).items() if (check := _checker(hint)) is not None
}


def upgrade(row: Any) -> dict[str, Any]:
    """A record dictionary of any known version, as one of the current version with every field.

    Raises `ValueError` for something that is no record, or one of a newer version.
    """
    if not isinstance(row, dict) or not isinstance(row.get("schema_version"), int):
        raise ValueError("not a record of gqabench: no schema_version")
    version = row["schema_version"]
    if version > SCHEMA_VERSION:
        raise ValueError(f"schema_version={version}: newer than this gqabench reads ({SCHEMA_VERSION})")
    for step in range(version, SCHEMA_VERSION):
        if step not in UPGRADES:
            raise ValueError(f"schema_version={version}: unknown; valid: 1 to {SCHEMA_VERSION}")
        row = UPGRADES[step](row)
    if missing := [name for name in _REQUIRED if name not in row]:
        raise ValueError(f"not a record of gqabench: no {', '.join(missing)}")
    for name, value in row.items():
        if value is not None and name in _VALID and not _VALID[name](value):
            raise ValueError(f"{name}={value!r}: not a value that a record has there")
    if row["outcome"] not in set(Outcome):
        raise ValueError(f"outcome={row['outcome']}: must be one of {', '.join(Outcome)}")
    return {**_DEFAULTS, **row, "schema_version": SCHEMA_VERSION}
