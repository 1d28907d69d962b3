"""Where the memory is: all that was weighed of one problem, the largest, side by side."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gqabench.reports.frames.problem import one_problem, where_text
from gqabench.reports.frames.tidy import ok_rows
from gqabench.reports.tables.results_table import Cell, Column, Group, Table
from gqabench.reports.units import MISSING, bytes_text, is_missing
from gqabench.results.columns import shown_columns
from gqabench.results.entries import Shown

MEMORY_MEANING = (
    "Prepared: what an implementation allocated before it was timed and kept, such as a cache of its own "
    "layout, a mask or a buffer. Unseen: what numpy or a library took outside PyTorch. Process: all "
    "memory of the worker at that time. Unexplained: its part that is neither inputs nor prepared, such as "
    "interpreter, libraries and references."
)


def memory_table(frame: pd.DataFrame) -> Table:
    """Return one line for each arm, of the problem with the longest context. Empty without `ok` rows."""
    rows = ok_rows(frame)
    if len(rows) == 0:
        return Table((), ())
    problem = one_problem(rows)
    parts = [part for part in shown_columns(Shown.MEMORY) if problem[part.name].notna().any()]
    lines = tuple(
        (Cell(str(arm)), *(Cell(_bytes(value)) for value in values))
        for arm, *values in problem[["arm", *(part.name for part in parts)]].itertuples(index=False)
    )
    columns = (Column("impl"), *(Column(part.title, is_number=True) for part in parts))
    return Table(columns, (Group(where_text(problem.iloc[0], rows), lines),))


def _bytes(value: Any) -> str:
    return MISSING if is_missing(value) else bytes_text(int(value))
