"""What each implementation takes before its first timed call."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gqabench.reports.frames.tidy import ok_rows
from gqabench.reports.tables.results_table import Cell, Column, Group, Table
from gqabench.reports.units import MISSING, count_text, duration_text
from gqabench.results.columns import shown_columns
from gqabench.results.entries import Shown


def setup_table(frame: pd.DataFrame) -> Table:
    """Return host time before the first timed call, by implementation: median and longest of its rows."""
    rows = ok_rows(frame)
    measured = [column for column in shown_columns(Shown.SETUP) if rows[column.name].notna().any()]
    columns = [Column("impl"), Column("rows", is_number=True)]
    columns += [Column(column.heading, is_number=True) for column in measured]
    lines = [
        (
            Cell(str(arm)),
            Cell(count_text(len(of_arm))),
            *(Cell(_median_and_most(of_arm[column.name])) for column in measured),
        )
        for arm, of_arm in rows.groupby("arm", sort=False)
    ]
    return Table(tuple(columns), (Group("", tuple(lines)),) if measured else ())


def _median_and_most(milliseconds: pd.Series[Any]) -> str:
    known = milliseconds.dropna()
    if len(known) == 0:
        return MISSING
    median, most = duration_text(known.median()), duration_text(known.max())
    return median if median == most else f"{median}, up to {most}"
