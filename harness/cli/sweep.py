"""`gqabench sweep`: Hydra composes and launches; this module starts and finishes the run."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections import Counter
from contextlib import suppress

from gqabench.harness.cases.keys import register_keys
from gqabench.harness.cli.interruption import interrupt_between_imports
from gqabench.harness.errors import UsageError
from gqabench.harness.sweep.hydra_errors import mistakes_explained
from gqabench.harness.sweep.progress import count_outcomes, make_display
from gqabench.results import Outcome, RunFolder, load_runs

_WITHOUT_MEASURING = (
    "--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help", "--shell-completion", "-sc", "--version",
)  # fmt: skip

_MULTIRUN_FLAGS = ("-m", "--multirun")


def main(arguments: list[str]) -> int:
    """Run Hydra on the arguments, then finish the run with its report."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then passes its exceptions on, to be explained here
    interrupt_between_imports()
    if any(argument.split("=")[0] in _WITHOUT_MEASURING for argument in arguments):
        _run_hydra(arguments)
        return 0
    return _measure(arguments)


def _measure(arguments: list[str]) -> int:
    from gqabench.harness.sweep.hydra_plugin import register_sweeper
    from gqabench.harness.sweep.job import close_job_process, job_process
    from gqabench.harness.sweep.sweeper import SweepRequest

    job_process(make_display())
    request = SweepRequest(
        command=shlex.join(["gqabench", "sweep", *arguments]),
        is_multirun=any(argument in _MULTIRUN_FLAGS for argument in arguments),
    )
    status = "partial"
    try:
        register_sweeper(request)
        _run_hydra(arguments)
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
            with suppress(OSError):  # a full disk, which was reported already
                request.folder.set_status(status)
    assert request.folder is not None
    finish_run(request.folder, status)
    from gqabench.harness.cli import INTERRUPTED_EXIT_CODE

    return 0 if status == "complete" else INTERRUPTED_EXIT_CODE


def finish_run(folder: RunFolder, status: str) -> None:
    """Write the Parquet file and the report, and print where they are."""
    from gqabench.harness.cli.report import report_runs
    from gqabench.results.store.parquet import write_parquet
    from gqabench.results.store.run_folder import PARQUET_NAME, RECORDS_FOLDER

    rows = load_runs(folder.path).rows
    try:
        header = folder.set_status(status)
        write_parquet(folder.path / PARQUET_NAME, rows, [header])
    except OSError as error:
        raise UsageError(
            f"results_dir={folder.path.parent}: {PARQUET_NAME} cannot be written: {error.strerror};"
            f" the records are in {folder.path / RECORDS_FOLDER}"
        ) from error
    outcomes = Counter(Outcome(row["outcome"]) for row in rows)
    of_planned = "" if status == "complete" else f" of {header.num_planned_records} planned, interrupted"
    print(f"{len(rows)} records{of_planned}: {count_outcomes(outcomes)}")
    if rows and not outcomes[Outcome.OK]:
        print("gqabench sweep: nothing could be measured; the report gives the reasons", file=sys.stderr)
    print(f"run: {folder.path}", flush=True)  # before the report, which a full disk may prevent
    print(f"report: {report_runs([str(folder.path)], folder.path)}")


def hydra_arguments(arguments: list[str]) -> list[str]:
    """Convert a user's arguments to those of Hydra's parser.

    Flags come first, and names of environments are marked as new keys.
    """
    marked = [re.sub(r"^(?=environments[.=])", "++", argument) for argument in arguments]
    return sorted(marked, key=lambda argument: argument not in _MULTIRUN_FLAGS)


def _run_hydra(arguments: list[str]) -> None:
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    from gqabench.harness.sweep.job import run_job

    register_keys()
    # Hydra reads the command line itself, and the completion scripts that it prints name the program.
    sys.argv = ["gqabench", *hydra_arguments(arguments)]
    app = hydra.main(version_base="1.3", config_path="pkg://gqabench.conf", config_name="sweep")(run_job)
    try:
        with mistakes_explained():
            app()
    finally:
        GlobalHydra.instance().clear()
