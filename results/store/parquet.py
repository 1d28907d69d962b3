"""Records as one Parquet file, with the run's header in the file's own metadata."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gqabench.results.record import Record
from gqabench.results.store.run_folder import RunHeader

_HEADER_KEY = b"gqabench.run"

_ARROW_TYPES = {
    "int": pa.int64(),
    "int | None": pa.int64(),
    "float | None": pa.float64(),
    "list[float] | None": pa.list_(pa.float64()),
    "list[str] | None": pa.list_(pa.string()),
    "list[str]": pa.list_(pa.string()),
}

_STRUCTS = {
    "timed_call": pa.struct(
        {
            "cache_append": pa.bool_(),
            "planning": pa.bool_(),
            "layout_conversion": pa.string(),
            "dequantisation": pa.string(),
            "kv_expansion": pa.string(),
            "num_launches": pa.int64(),
        }
    )
}
"""Columns whose values are dictionaries with known keys."""


def write_parquet(path: Path, rows: list[dict[str, Any]], headers: list[RunHeader]) -> None:
    """Write record dictionaries and the headers of their runs; whole or not at all."""
    schema = pa.schema(
        [
            (item.name, _STRUCTS.get(item.name) or _ARROW_TYPES.get(str(item.type), pa.string()))
            for item in fields(Record)
        ],
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
