"""The table of problem axes: what a sweep can vary. An axis is a field of `Record` that is made by `axis`.

from gqabench.results.axes import AXES

for axis in AXES.values():
    print(axis.key, axis.column.type.text, axis.default, axis.about)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any

from gqabench.results.columns import COLUMNS, Column
from gqabench.results.entries import AxisEntry, Panels, Role


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis: a key of the sweep, a column of the record, a facet of figures."""

    column: Column
    entry: AxisEntry

    @property
    def key(self) -> str:
        """Its name in YAML, on the command line and in frames."""
        return self.column.name

    @property
    def about(self) -> str:
        """One or two sentences: what it is, and what null means."""
        return self.column.about

    @property
    def default(self) -> Any:
        """The value of a configuration that does not say; `dataclasses.MISSING` where each must say it."""
        if self.column.default is MISSING and self.column.type.is_nullable:
            return None
        return self.column.default

    @property
    def is_required(self) -> bool:
        """Whether null is no value of a configuration."""
        return self.column.default is MISSING or not self.column.type.is_nullable

    @property
    def is_count(self) -> bool:
        """Whether its values are positive whole numbers, or null."""
        return self.column.type.scalar is int

    @property
    def label(self) -> str:
        """Axis label of a figure, with its unit."""
        return self.entry.label or self.key

    @property
    def plural(self) -> str:
        """Several of its values, in a sentence."""
        return self.entry.plural or f"values of {self.key}"

    @property
    def null_text(self) -> str:
        """What null, or false, means to a reader."""
        return self.entry.null_text or f"no {self.key}"


def axes_of(columns: Mapping[str, Column]) -> dict[str, Axis]:
    """Return the axes among some columns: what names a problem first, then settings, shape and size."""
    found = [
        Axis(column=column, entry=column.entry.axis)
        for column in columns.values()
        if column.entry.axis is not None
    ]
    roles = list(Role)
    return {axis.key: axis for axis in sorted(found, key=lambda axis: roles.index(axis.entry.role))}


AXES: Mapping[str, Axis] = axes_of(COLUMNS)
"""Every axis by key, in the order in which a slice fixes them."""

PROBLEM_KEYS = ("workload", "phase", *AXES)
"""What tells one problem from another."""

FACET_KEYS = tuple(
    axis.key
    for axis in sorted(AXES.values(), key=lambda axis: axis.entry.panels)
    if axis.entry.panels is not Panels.NEVER
)
"""In the order in which they become columns and rows of panels."""

HEADING_KEYS = tuple(
    axis.key
    for role in (Role.NAME, Role.SIZE, Role.SHAPE, Role.SETTING)
    for axis in AXES.values()
    if axis.entry.role is role and axis.entry.panels is not Panels.NEVER
)
"""In the order in which a heading names them."""

TOLD_KEYS = tuple(axis.key for axis in AXES.values() if axis.entry.is_told_alone)
"""What a caption names wherever it has several values."""

SETTING_KEYS = tuple(
    axis.key
    for axis in AXES.values()
    if axis.entry.role is Role.SETTING and axis.column.default is not MISSING
)
"""Settings that most problems leave at their default."""


def told_settings(row: Mapping[str, Any]) -> list[str]:
    """Return the settings of a record that are not at their default, as a problem's name tells them."""
    told = []
    for key in SETTING_KEYS:
        value = row.get(key)
        if value is not None and value != AXES[key].default:
            told.append(key if value is True else f"{key} {value}")
    return told
