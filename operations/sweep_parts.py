"""Sweeps that take longer than a GPU is at hand: each is a part, and goes on where it was interrupted."""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # of scripts that are run from anywhere

from gqabench import results  # noqa: E402
from gqabench.harness.machine.nvml import open_nvml  # noqa: E402

if TYPE_CHECKING:
    import pandas as pd

PROGRAM = [sys.executable, "-c", "import sys; from gqabench.harness.cli import main; sys.exit(main())"]
"""`gqabench`, of this checkout, for a process whose working directory is `ROOT`."""
REHEARSAL = "rehearsal"
"""The folder beside the true runs for rehearsals, so that none counts as measured or becomes a baseline."""
CLOSING_SECONDS = 8.0
"""For which a sweep that is interrupted may end its worker and write its records as Parquet."""
REPORT_SECONDS = 10.0
"""For which it may write its report too, where it has one. Other parts are reported where time costs less."""
SHORT_MEASURE = (
    "measure=standard",
    "measure.seconds_per_arm=0.4",
    "measure.timeout_s=40",
    "measure.energy=false",
)
"""Overrides of a sweep that has minutes: a hanging arm costs 40 s, and energy would double the time."""
REHEARSED_MEASURE = ("measure=smoke", "measure.min_rounds=2", "measure.seconds_per_arm=0.01")
"""Overrides of a rehearsal, whose times mean nothing."""

_MEASURED = (0, 130, -signal.SIGINT, -signal.SIGKILL)
"""Exit codes of a sweep that ended as it should: by itself, interrupted, as it started too, or killed."""
_ANSWERED = ("ok", "unsupported", "incorrect")
"""Outcomes that a second try would not change; others are tried once more."""
_RETRIED = "retried"


class PartFailed(SystemExit):
    """A sweep that failed ends the script. The message says which, and how it ended."""


class Parts:
    """A folder of results for each part, in which nobody else writes: its newest run is the part's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run_of(self, part: str) -> Path | None:
        """Return the folder of a part's run; None while it has none."""
        run = (self.folder / part / "latest").resolve()
        return run if (run / "run.json").exists() else None

    def is_complete(self, part: str) -> bool:
        """Whether every case of a part was measured, and what failed was tried once more."""
        run = self.run_of(part)
        if run is None or json.loads((run / "run.json").read_text())["status"] != "complete":
            return False
        return self._was_retried(part) or {row["outcome"] for row in newest_rows(run)} <= set(_ANSWERED)

    def frame_of(self, parts: Iterable[str]) -> pd.DataFrame | None:
        """Return the records of those parts that have any; None where none has."""
        runs = [run for part in parts if (run := self.run_of(part)) is not None]
        if not runs:
            return None
        from gqabench.results.store.frame import records_to_frame

        return records_to_frame(row for run in runs for row in newest_rows(run))

    def copy_gb_per_s(self, part: str) -> float | None:
        """Return the copy bandwidth that was measured on the GPU of a part's run; None where none was."""
        run = self.run_of(part)
        roofs = {} if run is None else json.loads((run / "run.json").read_text())["machine"].get("roofs", {})
        on_gpu = [of_device for device, of_device in roofs.items() if device != "cpu"]
        return float(on_gpu[0]["copy_gb_per_s"]["best"]) if on_gpu else None

    def measure(self, part: str, overrides: Sequence[str], seconds: float, has_report: bool = False) -> bool:
        """Run or resume a part's sweep for at most some seconds; whether it is complete.

        Its report, which takes time, is written only where it is asked for. Raises `PartFailed`. A part that
        another process is measuring is left to that one.
        """
        if self.is_complete(part):
            print(f"{part}: complete", flush=True)
            return True
        folder = self.folder / part
        folder.mkdir(parents=True, exist_ok=True)
        with _holding(folder / ".lock") as is_ours:
            if not is_ours:
                raise PartFailed(f"{part}: another process is measuring it")
            self._sweep(part, overrides, seconds, has_report)
        is_complete = self.is_complete(part)
        print(f"{part}: {'complete' if is_complete else 'interrupted; ask for it again'}", flush=True)
        return is_complete

    def _sweep(self, part: str, overrides: Sequence[str], seconds: float, has_report: bool) -> None:
        folder, before = self.folder / part, self.run_of(part)
        if before is not None and json.loads((before / "run.json").read_text())["status"] == "complete":
            (folder / _RETRIED).touch()
        resume = [] if before is None else [f"resume={hydra_quoted(before)}"]
        told = [*overrides, f"results_dir={hydra_quoted(folder)}", f"report={str(has_report).lower()}"]
        try:
            code = run_for([*PROGRAM, "sweep", *told, *resume], seconds, closing_seconds(has_report))
        finally:
            self._note_killed(part)
        if code not in _MEASURED:
            raise PartFailed(f"{part}: the sweep ended with exit code {code}")

    def _note_killed(self, part: str) -> None:
        """Mark a run partial whose sweep was killed before it could: what it has written counts."""
        run = self.run_of(part)
        if run is not None and json.loads((run / "run.json").read_text())["status"] == "running":
            results.RunFolder(run).set_status("partial")

    def _was_retried(self, part: str) -> bool:
        return (self.folder / part / _RETRIED).exists()


def expected_seconds(
    num_cases: int, num_impls: int, has_energy: bool = False, has_report: bool = False
) -> float:
    """Estimate a sweep's time on a GPU with `SHORT_MEASURE`: what its budget has to allow. Not a measurement.

    15 s to start, 2 s to close and 10 s to report; 5 s a case for inputs, reference and tuning; for each of
    its arms 1.6 s, and 2.5 s more with energy.
    """
    cases = num_cases * (5 + num_impls * (4.1 if has_energy else 1.6))
    return 15 + cases + 2 + (10 if has_report else 0)


def closing_seconds(has_report: bool) -> float:
    """Return how long a sweep that is interrupted may take to end by itself."""
    return CLOSING_SECONDS + (REPORT_SECONDS if has_report else 0)


def newest_rows(run: Path) -> list[dict[str, Any]]:
    """Return one record a cell of a run: what was measured again replaces what failed before."""
    rows: dict[tuple[object, ...], dict[str, Any]] = {}
    for row in results.load_runs(run).rows:
        cell = (row["case_id"], row["impl"], row["environment"])
        rows.pop(cell, None)  # it stands where it was measured last
        rows[cell] = row
    return list(rows.values())


def run_for(command: Sequence[str], seconds: float, closing_seconds: float) -> int:
    """Return the exit code of a command that is interrupted after some seconds, and killed if need be.

    An interruption of this process is passed on. The command's whole group ends with it.
    """
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return _end(process, closing_seconds)
    except BaseException:
        _end(process, closing_seconds)
        raise


def _end(process: subprocess.Popen[bytes], closing_seconds: float) -> int:
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(timeout=closing_seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


@contextmanager
def _holding(path: Path) -> Iterator[bool]:
    """Whether the lock is ours, for as long as the context lasts."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def hydra_quoted(path: Path) -> str:
    """Return a path as a value of Hydra's grammar."""
    return "'" + from_root(path).replace("'", "\\'") + "'"


def from_root(path: Path) -> str:
    """Return a path as a record may name it: relative within the checkout, naming no machine's folders."""
    path = path.resolve()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def is_rehearsal(is_asked_for: bool) -> bool:
    """Return whether what comes is no measurement of a GPU: as asked, or without one, or on a simulated one.

    The driver is asked first: importing torch takes seconds, in each script anew.
    """
    if is_asked_for or "SIMULATED_GPU" in os.environ:
        return True
    if open_nvml().list_devices():
        return False
    import torch

    return not torch.cuda.is_available()


def positive_seconds(text: str) -> float:
    """Return a number of seconds of the command line."""
    seconds = float(text)
    if not (seconds > 0 and math.isfinite(seconds)):
        raise argparse.ArgumentTypeError(f"{text}: must be a positive number of seconds")
    return seconds


def run_script(main: Callable[[], None]) -> None:
    """Run a script, which Ctrl-C and SIGTERM end with exit code 130 once what was begun is kept."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
