"""One run from its first worker to its Parquet file, for the command and for Python programs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gqabench.harness.errors import UsageError
from gqabench.harness.sweep.hydra_plugin import register_sweeper
from gqabench.harness.sweep.job import close_job_process, job_process
from gqabench.harness.sweep.progress import Display
from gqabench.harness.sweep.sweeper import SweepRequest
from gqabench.results import RunFolder, RunHeader, load_runs
from gqabench.results.store.run_folder import PARQUET_NAME, RECORDS_FOLDER


@dataclass(frozen=True)
class ClosedRun:
    """A run that nothing is added to any more."""

    folder: RunFolder
    header: RunHeader
    rows: list[dict[str, Any]]
    """Its records as plain values"""

    @property
    def is_complete(self) -> bool:
        """Whether all that was planned was measured; False where it was interrupted."""
        return self.header.status == "complete"


def measure_run(request: SweepRequest, display: Display, launch: Callable[[], object]) -> ClosedRun:
    """Measure what `launch` gives to Hydra. An interrupted run is closed too, with what was measured.

    Raises `UsageError` for a user's mistake, and `KeyboardInterrupt` where there is no run yet.
    """
    job_process(display)
    status = "partial"
    try:
        register_sweeper(request)
        launch()
        status = "complete"
    except KeyboardInterrupt:
        if request.folder is None:
            raise
    except UsageError as error:
        if request.folder is None:
            raise
        raise UsageError(f"{error}; the records so far are in {request.folder.path}") from error
    finally:
        close_job_process()
        if request.folder is not None and status == "partial":
            with suppress(OSError):  # a full disk, which something else has said already
                request.folder.set_status(status)
    assert request.folder is not None
    return close_run(request.folder, status)


def close_run(folder: RunFolder, status: str) -> ClosedRun:
    """Say in its header how a run ended, and write its records as Parquet. Raises `UsageError`."""
    from gqabench.results.store.parquet import write_parquet  # pyarrow takes long to load

    rows = load_runs(folder.path).rows
    try:
        header = folder.set_status(status)
        write_parquet(folder.path / PARQUET_NAME, rows, [header])
    except OSError as error:
        raise UsageError(
            f"results_dir={folder.path.parent}: {PARQUET_NAME} cannot be written: {error.strerror};"
            f" the records are in {folder.path / RECORDS_FOLDER}"
        ) from error
    return ClosedRun(folder, header, rows)
