"""Dataclasses as plain values, for JSON. What an older or newer writer wrote still reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

T = TypeVar("T")


def from_plain(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build a dataclass from plain values: unknown keys are ignored, missing ones take the field's default.

    Raises `ValueError` naming the fields that are missing and have no default.
    """
    known = {item.name: values[item.name] for item in fields(kind) if item.name in values}  # type: ignore[arg-type]
    missing = [
        item.name
        for item in fields(kind)  # type: ignore[arg-type]
        if item.name not in known and item.default is MISSING and item.default_factory is MISSING
    ]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    return kind(**known)
