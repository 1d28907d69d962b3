"""`gqabench sweep`: Hydra composes and launches; this module reads the flags and says what came of it."""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from typing import TYPE_CHECKING

from gqabench.harness.cases.keys import register_keys
from gqabench.harness.sweep.display_choice import make_display
from gqabench.harness.sweep.hydra_errors import mistakes_explained
from gqabench.harness.sweep.interruption import interrupt_between_imports
from gqabench.harness.sweep.overrides import MULTIRUN_FLAGS, hydra_arguments
from gqabench.harness.sweep.progress import count_outcomes
from gqabench.results import Outcome

if TYPE_CHECKING:
    from gqabench.harness.sweep.run import ClosedRun

_WITHOUT_MEASURING = (
    "--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help", "--shell-completion", "-sc", "--version",
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run Hydra on the arguments, then finish the run with its report."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then passes its exceptions on, to be explained here
    interrupt_between_imports()
    if any(argument.split("=")[0] in _WITHOUT_MEASURING for argument in arguments):
        _run_hydra(arguments)
        return 0
    return _measure(arguments)


def _measure(arguments: list[str]) -> int:
    from gqabench.harness.cli import INTERRUPTED_EXIT_CODE
    from gqabench.harness.sweep.run import measure_run
    from gqabench.harness.sweep.sweeper import SweepRequest

    request = SweepRequest(
        command=shlex.join(["gqabench", "sweep", *arguments]),
        is_multirun=any(argument in MULTIRUN_FLAGS for argument in arguments),
    )
    run = measure_run(request, make_display(), lambda: _run_hydra(arguments))
    _conclude(run, request.wants_report)
    return 0 if run.is_complete else INTERRUPTED_EXIT_CODE


def _conclude(run: ClosedRun, wants_report: bool) -> None:
    """Say what was measured and where it is, and write the report unless `report=false` was given."""
    outcomes = Counter(Outcome(row["outcome"]) for row in run.rows)
    of_planned = "" if run.is_complete else f" of {run.header.num_planned_records} planned, interrupted"
    print(f"{len(run.rows)} records{of_planned}: {count_outcomes(outcomes)}")
    if run.rows and not outcomes[Outcome.OK]:
        where = "report gives" if wants_report else "records give"
        print(f"gqabench sweep: nothing could be measured; the {where} the reasons", file=sys.stderr)
    folder = run.folder.path
    print(f"run: {folder}", flush=True)  # before the report, which a full disk may refuse
    if wants_report:
        from gqabench.harness.cli.report import report_runs

        print(f"report: {report_runs([str(folder)], folder)}")
    else:
        print(f"report: not written (report=false); gqabench report {shlex.quote(str(folder))} writes it")


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
