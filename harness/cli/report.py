"""`gqabench report RUN [RUN ...]`: figures, tables and one self-contained page."""

from __future__ import annotations

import argparse
from pathlib import Path

from gqabench.harness.errors import UsageError
from gqabench.results import UnreadableRun


def main(arguments: list[str]) -> int:
    """Write a report and say where it is; returns the exit code. Raises `UsageError`."""
    from gqabench.reports.report import report_folder

    parser = argparse.ArgumentParser(prog="gqabench report", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, a file of records, or a glob")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="default: the first run's folder")
    parsed = parser.parse_args(arguments)
    print(f"report: {report_runs(parsed.runs, parsed.output or report_folder(parsed.runs[0]))}")
    return 0


def report_runs(runs: list[str], folder: Path) -> Path:
    """Write the report of some runs into a folder; returns the page. Raises `UsageError`."""
    from gqabench.reports.report import report

    try:
        return report(runs, folder)
    except UnreadableRun as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{folder}: the report cannot be written: {error.strerror}") from error
