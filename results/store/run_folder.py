"""A run on disk: its header, the records as they come, and the Parquet that holds them all at the end.

    RUN/run.json              what was run, where, and how far it came
    RUN/records/NAME.jsonl    one record a line; each process writes files of its own
    RUN/conditions/NAME.jsonl what was seen of the machine while arms were timed, a line for each time
    RUN/records.parquet       the same records, written when the run ends

Only data is written here: no pickles.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gqabench.results.record import SCHEMA_VERSION, Record

HEADER_NAME = "run.json"
PARQUET_NAME = "records.parquet"
RECORDS_FOLDER = "records"
CONDITIONS_FOLDER = "conditions"
LATEST_LINK = "latest"
RUN_STATUSES = ("running", "complete", "partial")


@dataclass(frozen=True, kw_only=True)
class RunHeader:
    """What holds for all records of a run."""

    run_id: str
    status: str
    """`running`; `complete`; `partial` when it was interrupted."""
    created_at: str
    """UTC, ISO 8601."""
    command: str
    """The command line that made the run."""
    study: str | None = None
    num_planned_cases: int
    num_planned_records: int
    seed: int
    measure: str
    gqabench_version: str
    machine: dict[str, Any] = field(default_factory=dict)
    """Facts about the machine and its software, in sections, as described when the run began."""
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunHeader:
        """Return the inverse of `dataclasses.asdict`. Raises `ValueError` when `values` is no header."""
        if not isinstance(values, dict):
            raise ValueError("not a run header: must be keys with values")
        known = {item.name for item in fields(cls)}
        for key in ("run_id", "created_at", "status", "command"):
            if not isinstance(values.get(key), str):
                raise ValueError(f"not a run header: {key}={values.get(key)!r}: must be a text")
        if not isinstance(values.get("study"), str | None):
            raise ValueError(f"not a run header: study={values['study']!r}: must be a string or null")
        machine = values.get("machine", {})
        devices = machine.get("devices") or [] if isinstance(machine, dict) else None
        if not isinstance(devices, list) or not all(isinstance(device, dict) for device in devices):
            raise ValueError(
                "not a run header: machine: must be keys with values, its devices a list of such"
            )
        try:
            return cls(**{key: value for key, value in values.items() if key in known})
        except TypeError as error:
            raise ValueError(f"not a run header: {error}") from error


class LineWriter:
    """Appends JSON objects to one file, a line each; each is on disk before `write` returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _end_with_newline(path)
        self._file = path.open("ab", buffering=0)  # nothing is held back, so closing cannot fail

    def write(self, values: dict[str, Any]) -> None:
        """Append a line. Raises `OSError` when the disk refuses it."""
        unwritten = json.dumps(values, allow_nan=False).encode() + b"\n"
        while unwritten:
            unwritten = unwritten[self._file.write(unwritten) :]
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class RecordWriter:
    """Appends records to one file; each is on disk before `write` returns."""

    def __init__(self, path: Path) -> None:
        self._lines = LineWriter(path)

    def write(self, record: Record) -> None:
        """Append a record. Raises `OSError` when the disk refuses it."""
        self._lines.write(record.to_dict())

    def close(self) -> None:
        self._lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class RunFolder:
    """One run's folder."""

    path: Path

    @classmethod
    def create(cls, path: Path, header: RunHeader) -> RunFolder:
        """Make the folder with its header. Raises `OSError` when it cannot be written."""
        (path / RECORDS_FOLDER).mkdir(parents=True)
        folder = cls(path)
        folder.write_header(header)
        return folder

    def header(self) -> RunHeader:
        """Read the header. Raises `ValueError` or `OSError` when there is no readable one."""
        try:
            values = json.loads((self.path / HEADER_NAME).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.path / HEADER_NAME}: not JSON: {error}") from error
        return RunHeader.from_dict(values)

    def write_header(self, header: RunHeader) -> None:
        text = json.dumps(asdict(header), indent=2, allow_nan=False) + "\n"
        temporary = self.path / f".{HEADER_NAME}.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.path / HEADER_NAME)

    def set_status(self, status: str) -> RunHeader:
        """Record how the run ended; returns the new header."""
        assert status in RUN_STATUSES
        header = replace(self.header(), status=status)
        self.write_header(header)
        return header

    def hold(self) -> int | None:
        """Keep others from measuring into this run: until the descriptor is closed, or this process ends.

        Raises `BlockingIOError` when another process does. None where the file system has no locks.
        """
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise
            return None
        return descriptor

    def writer(self, name: str) -> RecordWriter:
        """Return a writer of this run's file `records/NAME.jsonl`, which no other process may use."""
        return RecordWriter(self.path / RECORDS_FOLDER / f"{name}.jsonl")

    def conditions_writer(self, name: str) -> LineWriter:
        """Return a writer of `conditions/NAME.jsonl`, which no other process may use."""
        return LineWriter(self.path / CONDITIONS_FOLDER / f"{name}.jsonl")

    def record_files(self) -> list[Path]:
        """Return the JSON-lines files, in order of name."""
        return sorted((self.path / RECORDS_FOLDER).glob("*.jsonl"))

    def link_latest(self) -> None:
        """Make `latest`, beside this folder, link here. A folder or file of that name is left alone."""
        link = self.path.parent / LATEST_LINK
        if link.exists() and not link.is_symlink():
            return
        temporary = self.path.parent / f".{LATEST_LINK}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(self.path.name, target_is_directory=True)
        temporary.replace(link)


def list_runs(results_dir: Path) -> Iterator[RunFolder]:
    """Yield the runs below a results folder, oldest first by name."""
    if not results_dir.is_dir():
        return
    for path in sorted(results_dir.iterdir()):
        if not path.is_symlink() and (path / HEADER_NAME).is_file():
            yield RunFolder(path)


def _end_with_newline(path: Path) -> None:
    """Close a line that a killed writer left open, so that the next record starts a line of its own."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
