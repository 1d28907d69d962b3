"""The types that a column may have, each with how it is checked. Storing and framing follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

SCALARS = (bool, int, float, str)
VALID = (
    "bool, int, float, str, a StrEnum, a list of one of these, or a TypedDict of them, each `| None` or not"
)


@dataclass(frozen=True)
class ColumnType:
    """One of `SCALARS`, a list of one, or a TypedDict of several; null or never null."""

    scalar: type | None
    is_nullable: bool = False
    is_list: bool = False
    members: Mapping[str, ColumnType] | None = None
    """Of a TypedDict, by key. It has no `scalar`."""

    @property
    def is_number(self) -> bool:
        """Whether a value is one number."""
        return self.scalar in (int, float) and not self.is_list

    @property
    def is_samples(self) -> bool:
        """Whether a value is a series of raw numbers."""
        return self.scalar is float and self.is_list

    @property
    def text(self) -> str:
        """The type in a reader's words: `int or null`, `list of float`, `object`."""
        name = "object" if self.scalar is None else self.scalar.__name__
        return f"{'list of ' if self.is_list else ''}{name}{' or null' if self.is_nullable else ''}"

    def accepts(self, value: Any) -> bool:
        """Return whether a value read from JSON or Parquet is of this type. Floats are finite, or whole."""
        if value is None:
            return self.is_nullable
        if type(value) is self.scalar and self.scalar is not float and not self.is_list:
            return True
        if self.members is not None:
            known = self.members
            return isinstance(value, dict) and all(
                name in known and (one is None or known[name].accepts(one)) for name, one in value.items()
            )
        if self.is_list:
            return isinstance(value, list) and all(self._is_scalar(one) for one in value)
        return self._is_scalar(value)

    def _is_scalar(self, value: Any) -> bool:
        if self.scalar is float:
            return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if self.scalar is int:
            return isinstance(value, int) and not isinstance(value, bool)
        assert self.scalar is not None
        return isinstance(value, self.scalar)


def column_type(name: str, hint: Any) -> ColumnType:
    """Return the type that an annotation stands for. Raises `TypeError`, naming the column, for any other."""
    members = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    known = [one for one in members if one is not NoneType]
    is_nullable = len(known) < len(members)
    if len(known) == 1:
        (one,) = known
        if get_origin(one) is list and (scalar := _scalar(get_args(one)[0])):
            return ColumnType(scalar, is_nullable, is_list=True)
        if is_typeddict(one):
            of_members = {
                key: column_type(f"{name}.{key}", each) for key, each in get_type_hints(one).items()
            }
            return ColumnType(None, is_nullable, members=of_members)
        if scalar := _scalar(one):
            return ColumnType(scalar, is_nullable)
    raise TypeError(f"{name}: no column can be of type {hint}; valid: {VALID}")


def _scalar(hint: Any) -> type | None:
    if hint in SCALARS:
        return hint  # type: ignore[no-any-return]
    return str if isinstance(hint, type) and issubclass(hint, StrEnum) else None
