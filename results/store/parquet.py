"""Records as one Parquet file, with the run's header in the file's own metadata."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gqabench.results.column_types import ColumnType
from gqabench.results.columns import COLUMNS
from gqabench.results.store.run_folder import RunHeader

_HEADER_KEY = b"gqabench.run"

_SCALARS = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


def arrow_type(kind: ColumnType) -> pa.DataType:
    """Return the Arrow type that stores a column."""
    if kind.scalar is None:
        assert kind.members is not None
        return pa.struct({name: arrow_type(member) for name, member in kind.members.items()})
    scalar = _SCALARS[kind.scalar]
    return pa.list_(scalar) if kind.is_list else scalar


def write_parquet(path: Path, rows: list[dict[str, Any]], headers: list[RunHeader]) -> None:
    """Write record dictionaries and the headers of their runs; whole or not at all."""
    schema = pa.schema(
        [(column.name, arrow_type(column.type)) for column in COLUMNS.values()],
        metadata={_HEADER_KEY: json.dumps([asdict(header) for header in headers]).encode()},
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary, compression="zstd")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_parquet(path: Path) -> tuple[list[dict[str, Any]], list[RunHeader]]:
    """Record dictionaries and run headers. Raises `ValueError` for a file that is not one of ours."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{path}: not a Parquet file of records: {str(error).splitlines()[0]}") from error
    metadata = table.schema.metadata or {}
    if _HEADER_KEY not in metadata:
        raise ValueError(f"{path}: a Parquet file, but not of gqabench records")
    return table.to_pylist(), [RunHeader.from_dict(values) for values in json.loads(metadata[_HEADER_KEY])]
