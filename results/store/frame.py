"""Records as a pandas frame: one row a record, columns typed by the record's own annotations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import pandas as pd

from gqabench.results.record import RECORD_FIELDS, Record

_COLUMN_DTYPES = {"int": "int64", "int | None": "Int64", "float | None": "float64"}
"""Pandas dtype by annotation; all else is kept as objects. A missing int is `<NA>`, never a float."""


def records_to_frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Plain record dictionaries (as of `Record.to_dict`) to a frame with the columns `RECORD_FIELDS`."""
    columns: dict[str, list[Any]] = {name: [] for name in RECORD_FIELDS}
    for row in rows:
        for name, values in columns.items():
            values.append(row[name])
    return pd.DataFrame(
        {
            item.name: pd.Series(columns[item.name], dtype=_COLUMN_DTYPES.get(str(item.type), "object"))
            for item in fields(Record)
        }
    )
