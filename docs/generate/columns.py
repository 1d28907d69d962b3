"""The page of the columns of a record."""

from __future__ import annotations

from documented_fields import DocumentedField, documented_fields
from markdown import code, page, table

from gqabench.results.flags import FLAG_MEANINGS
from gqabench.results.record import Record

_INTRODUCTION = """\
A row is one record: one arm on one problem, measured in one process. Units stand in names. Bytes are ints;
GB is 10^9 bytes, GiB is 2^30. What was not measured is null, never 0. How the numbers are measured:
[Concepts](concepts.md)."""


def columns_page() -> str:
    """Return a table for each section of a record, and the flags."""
    columns = record_columns()
    parts = [_INTRODUCTION]
    for section in dict.fromkeys(column.section for column in columns):
        rows = [(code(one.name), one.type, one.about) for one in columns if one.section == section]
        parts += [f"## {section}", table(("column", "type", "meaning"), rows)]
    parts += [
        "## Flags",
        "A flag is a doubt about a measurement. It stands in `flags`, and the row keeps its numbers.",
        table(("flag", "says"), [(code(flag), meaning) for flag, meaning in FLAG_MEANINGS.items()]),
    ]
    about_page = "Every column of a record: what `gqabench.load` returns and `records.parquet` holds."
    return page("Columns", about_page, *parts)


def record_columns() -> list[DocumentedField]:
    """Return the columns of a record in order."""
    return documented_fields(Record)
