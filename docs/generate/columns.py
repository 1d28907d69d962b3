"""The page of the columns of a record."""

from __future__ import annotations

from markdown import code, page, table

from gqabench.results.columns import COLUMNS
from gqabench.results.entries import Section
from gqabench.results.flags import FLAG_MEANINGS

_INTRODUCTION = """\
A row is one record: one arm on one problem, measured in one process. Units stand in names. Bytes are ints;
GB is 10^9 bytes, GiB is 2^30. What was not measured is null, never 0. How the numbers are measured:
[Concepts](concepts.md)."""


def columns_page() -> str:
    """Return a table for each section of a record, and the flags."""
    parts = [_INTRODUCTION]
    for section in Section:
        rows = [
            (code(column.name), column.type.text, column.about)
            for column in COLUMNS.values()
            if column.section is section
        ]
        parts += [f"## {section}", table(("column", "type", "meaning"), rows)]
    parts += [
        "## Flags",
        "A flag is a doubt about a measurement. It stands in `flags`, and the row keeps its numbers.",
        table(("flag", "says"), [(code(flag), meaning) for flag, meaning in FLAG_MEANINGS.items()]),
    ]
    about_page = "Every column of a record: what `gqabench.load` returns and `records.parquet` holds."
    return page("Columns", about_page, *parts)
