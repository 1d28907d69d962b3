"""`gqabench report RUN [RUN ...]`: figures, tables and one self-contained page."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from gqabench.harness.errors import UsageError
from gqabench.results import UnreadableRun, load_runs


def main(arguments: list[str]) -> int:
    """Run `gqabench report` and return its exit code."""
    parser = argparse.ArgumentParser(prog="gqabench report", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, a file of records, or a glob")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="default: the first run's folder")
    parsed = parser.parse_args(arguments)
    first = Path(parsed.runs[0])
    folder = parsed.output or (first.resolve() if first.is_dir() else Path("report"))
    page = report_runs(parsed.runs, folder)
    print(f"report: {page}")
    return 0


def report_runs(runs: list[str], folder: Path) -> Path:
    """Write the report of some runs into a folder, and return its page. Raises `UsageError`."""
    from gqabench.reports import build_report
    from gqabench.results.store.frame import records_to_frame

    try:
        loaded = [load_runs(run) for run in runs]
    except UnreadableRun as error:
        raise UsageError(str(error)) from error
    rows = [row for one in loaded for row in one.rows]
    headers = [asdict(header) for one in loaded for header in one.headers]
    try:
        return build_report(records_to_frame(rows), headers, folder)
    except OSError as error:
        raise UsageError(f"{folder}: the report cannot be written: {error.strerror}") from error
