"""The table of columns: one entry a column, in the order of a record. All of it is read from `Record`.

from gqabench.results.columns import COLUMNS

for column in COLUMNS.values():
    print(column.name, column.type.text, column.unit, column.about)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, get_type_hints

from gqabench.results.column_types import ColumnType, column_type
from gqabench.results.entries import Compared, Entry, Section, Shown, Unit, entry_of
from gqabench.results.record import Record

_UNITS_IN_TITLES = {Unit.MS, Unit.S, Unit.WATTS, Unit.MHZ, Unit.CELSIUS}
"""Their texts are bare numbers; other units stand in the text, or are the heading itself."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a record."""

    name: str
    type: ColumnType
    default: Any
    """Of a record that does not give it; `dataclasses.MISSING` where each must."""
    entry: Entry

    @property
    def about(self) -> str:
        """One or two sentences: what it is."""
        return self.entry.about

    @property
    def section(self) -> Section:
        """The part of a record that it belongs to."""
        return self.entry.section

    @property
    def unit(self) -> Unit | None:
        """What its number counts; None for names, texts and settings."""
        return self.entry.unit

    @property
    def heading(self) -> str:
        """Name in tables and in the glossary, without the unit; empty where no table shows it."""
        return self.entry.heading

    @property
    def title(self) -> str:
        """The heading of a table's column: `latency (ms)`."""
        return f"{self.heading} ({self.unit})" if self.unit in _UNITS_IN_TITLES else self.heading

    @property
    def compared(self) -> Compared | None:
        """How `compare` and `ab` judge it; None where they do not."""
        return self.entry.compared


def columns_of(record: type) -> dict[str, Column]:
    """Return the columns of a record's class by name, in its order.

    Raises `TypeError`, naming the field, for one that has no entry, a type that cannot be stored, or null for
    a default that its type excludes.
    """
    hints = get_type_hints(record)
    return {item.name: _column(item, hints[item.name]) for item in fields(record)}


def _column(item: Field[Any], hint: Any) -> Column:
    entry = entry_of(item)
    kind = column_type(item.name, hint)
    default = item.default if item.default_factory is MISSING else item.default_factory()
    if default is None and not kind.is_nullable:
        raise TypeError(f"{item.name}: its default is null, so its type must be `{hint.__name__} | None`")
    if entry.shown and not entry.heading:
        raise TypeError(f"{item.name}: a column of the report's tables needs a heading")
    if entry.is_positive and not kind.is_number:
        raise TypeError(f"{item.name}: is_positive is for numbers")
    return Column(name=item.name, type=kind, default=default, entry=entry)


COLUMNS: Mapping[str, Column] = columns_of(Record)
"""Every column by name."""


def shown_columns(table: Shown) -> list[Column]:
    """Return the columns that a table of the report shows, in its order."""
    return [column for column in COLUMNS.values() if table in column.entry.shown]


def sample_columns() -> list[str]:
    """Return the names of the columns that hold raw series: long, and thinned in baselines."""
    return [column.name for column in COLUMNS.values() if column.type.is_samples]
