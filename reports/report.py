"""The report of runs or of a frame: what `gqabench.report` and `gqabench report` write."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from gqabench.results.store.load import load_runs
from gqabench.results.store.run_folder import HEADER_NAME, RunFolder

if TYPE_CHECKING:
    import pandas as pd

RunPath: TypeAlias = str | os.PathLike[str]
_DEFAULT_FOLDER = "report"


def report(runs: RunPath | Sequence[RunPath] | pd.DataFrame, folder: RunPath | None = None) -> Path:
    """Write figures, tables and one self-contained page; returns the path of `report.html`.

    Args:
        runs: What `gqabench.load` takes, several of it, or a frame of records. A frame of
            `gqabench.measure` brings the description of its run and machine along.
        folder: Where to write; default: the folder of the first run, or `report` where there is none.

    Raises `ValueError` where there are no records of gqabench, `OSError` where `folder` cannot be written.
    """
    import pandas as pd

    from gqabench.reports.page import build_report

    if isinstance(runs, pd.DataFrame):
        run = runs.attrs.get("run")
        return build_report(runs, _headers_of(run), Path(folder or report_folder(run)))
    paths = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    if not paths:
        raise ValueError("runs=[]: needs a run's folder, a file of records, or a frame")
    return build_report(*_loaded(paths), Path(folder or report_folder(paths[0])))


def report_folder(run: RunPath | None) -> Path:
    """Return where a report goes unless told: into the folder of its first run, or `report` without one."""
    return Path(run).resolve() if run is not None and Path(run).is_dir() else Path(_DEFAULT_FOLDER)


def _loaded(paths: Sequence[RunPath]) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Return the records of several runs, and the headers of those that have one."""
    from gqabench.results.store.frame import records_to_frame

    loaded = [load_runs(os.fspath(path)) for path in paths]
    headers = [asdict(header) for one in loaded for header in one.headers]
    return records_to_frame(row for one in loaded for row in one.rows), headers


def _headers_of(run: Any) -> list[dict[str, Any]]:
    """Return the header of the run that a frame is of; none where it is of no run, or the run is gone."""
    if run is None or not (Path(run) / HEADER_NAME).is_file():
        return []
    return [asdict(RunFolder(Path(run)).header())]
