"""Reading runs back: any path that a person would name, to rows, headers or a frame."""

from __future__ import annotations

import glob
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gqabench.results.store.pytest_benchmark_file import read_pytest_benchmark
from gqabench.results.store.run_folder import HEADER_NAME, PARQUET_NAME, RunFolder, RunHeader
from gqabench.results.store.schema_versions import upgrade

if TYPE_CHECKING:
    import pandas as pd


class UnreadableRun(ValueError):
    """A path that holds no records of gqabench. The message names the path and what was expected."""


@dataclass(frozen=True)
class LoadedRuns:
    """Records as plain dictionaries of the current schema version, and the headers of their runs."""

    rows: list[dict[str, Any]]
    headers: list[RunHeader]


def load(path: str | Path) -> pd.DataFrame:
    """Return the records at `path` as a tidy frame, one row a record, columns as in `Record`.

    `path` is a run's folder (or the `latest` link), a `.jsonl` or `.parquet` file of records, a `.json` of
    pytest-benchmark, or a glob of such paths. Raises `UnreadableRun` (a `ValueError`) when there are no
    records of gqabench.
    """
    from gqabench.results.store.frame import records_to_frame

    return records_to_frame(load_runs(path).rows)


def load_runs(path: str | Path) -> LoadedRuns:
    """Return what `load` does as plain rows, with the run headers beside them."""
    loaded = [_load_one(one) for one in _expand(str(path))]
    return LoadedRuns(
        rows=[row for one in loaded for row in one.rows],
        headers=[header for one in loaded for header in one.headers],
    )


def _expand(pattern: str) -> list[Path]:
    if Path(pattern).exists():
        return [Path(pattern)]
    matches = sorted(Path(match) for match in glob.glob(pattern, recursive=True))  # noqa: PTH207  absolute patterns too
    if not matches:
        raise UnreadableRun(
            f"{pattern}: no such run; name a run's folder, a .jsonl or a .parquet file of records"
        )
    return matches


def _load_one(path: Path) -> LoadedRuns:
    try:
        if path.is_dir():
            return _load_folder(RunFolder(path.resolve()))
        if path.suffix == ".parquet":
            return _load_parquet(path)
        if path.suffix == ".json":
            return _load_pytest_benchmark(path)
        if path.suffix == ".jsonl":
            return LoadedRuns(rows=_read_lines(path, forgive_last=False), headers=[])
    except UnreadableRun:
        raise
    except ValueError as error:
        raise UnreadableRun(_naming(path, str(error))) from error
    except OSError as error:
        raise UnreadableRun(f"{path}: {error.strerror}") from error
    raise UnreadableRun(f"{path}: not a run; name a run's folder, a .jsonl or a .parquet file of records")


def _load_folder(folder: RunFolder) -> LoadedRuns:
    parquet = folder.path / PARQUET_NAME
    files = folder.record_files()
    if parquet.is_file() and all(file.stat().st_mtime <= parquet.stat().st_mtime for file in files):
        return _load_parquet(parquet)
    if not (folder.path / HEADER_NAME).is_file():
        raise UnreadableRun(
            f"{folder.path}: not a run's folder: it has no {HEADER_NAME} and no {PARQUET_NAME}"
        )
    rows = [row for file in files for row in _read_lines(file, forgive_last=True)]
    return LoadedRuns(rows=rows, headers=[folder.header()])


def _load_parquet(path: Path) -> LoadedRuns:
    from gqabench.results.store.parquet import read_parquet

    rows, headers = read_parquet(path)
    return LoadedRuns(rows=[upgrade(row) for row in rows], headers=headers)


def _load_pytest_benchmark(path: Path) -> LoadedRuns:
    rows, headers = read_pytest_benchmark(path)
    return LoadedRuns(rows=rows, headers=headers)


def _read_lines(path: Path, *, forgive_last: bool) -> list[dict[str, Any]]:
    """Return records of a JSON-lines file.

    `forgive_last`: leave out an unfinished last line, as a killed writer leaves it, with a warning.
    """
    rows = []
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(upgrade(json.loads(line)))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            if forgive_last and number == len(lines):
                warnings.warn(f"{path}:{number}: an unfinished record is left out", stacklevel=2)
                continue
            raise UnreadableRun(f"{path}:{number}: truncated, or not a record of gqabench") from error
        except ValueError as error:
            raise UnreadableRun(f"{path}:{number}: {error}") from error
    if not rows and not forgive_last:
        raise UnreadableRun(f"{path}: holds no records")
    return rows


def _naming(path: Path, message: str) -> str:
    return message if str(path) in message else f"{path}: {message}"
