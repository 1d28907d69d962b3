"""Records as a pandas frame: one row a record, columns typed by the record's own annotations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from gqabench.results.column_types import ColumnType
from gqabench.results.columns import COLUMNS

_DTYPES = {
    (bool, False): "bool",
    (bool, True): "boolean",
    (int, False): "int64",
    (int, True): "Int64",
    (float, False): "float64",
    (float, True): "float64",
    (str, False): "object",
    (str, True): "object",
}
"""Pandas dtype of a scalar, by type and whether it may be null. A missing int is `<NA>`, never a float."""


def records_to_frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return a frame of plain record dictionaries (as of `Record.to_dict`), with every column of a record."""
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for row in rows:
        for name, values in columns.items():
            values.append(row[name])
    return pd.DataFrame(
        {
            column.name: pd.Series(columns[column.name], dtype=pandas_dtype(column.type))
            for column in COLUMNS.values()
        }
    )


def pandas_dtype(kind: ColumnType) -> Any:
    """Return the dtype of a column; lists and objects stay Python's own."""
    if kind.is_list or kind.scalar is None:
        return "object"
    return _DTYPES[kind.scalar, kind.is_nullable]
