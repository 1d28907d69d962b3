"""Sweeps that take longer than a GPU is lent for: each is a part, and goes on where it was interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # of scripts that are run from anywhere

import results  # noqa: E402

PROGRAM = [sys.executable, "-c", "import sys; from harness.cli import main; sys.exit(main())"]
"""`gqabench`, of this checkout, for a process whose working directory is `ROOT`."""

_MEASURED = (0, 1, 130)
"""Exit codes of a sweep that wrote a run: all well, nothing could be measured, interrupted."""
_REPORT_SECONDS = 60
"""An interrupted sweep still writes its report."""


REHEARSAL = "rehearsal"
"""The folder beside the true runs for what was rehearsed, lest it count as measured or become a baseline."""


class PartFailed(SystemExit):
    """A sweep that wrote no run ends the script. The message says which, and how it ended."""


class Parts:
    """Which run each part has, in a file beside the runs that other processes may write as well."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "parts.json"

    def run_of(self, part: str) -> Path | None:
        """The folder of a part's run; None while it has none."""
        name = self._runs().get(part)
        return None if name is None else self.folder / name

    def is_complete(self, part: str) -> bool:
        """Whether every case of a part was measured."""
        run = self.run_of(part)
        return run is not None and json.loads((run / "run.json").read_text())["status"] == "complete"

    def frame_of(self, parts: Iterable[str]) -> pd.DataFrame | None:
        """The records of those parts that have any; None where none has."""
        frames = [results.load(run) for part in parts if (run := self.run_of(part)) is not None]
        return pd.concat(frames, ignore_index=True) if frames else None

    def measure(self, part: str, overrides: Sequence[str], seconds: float) -> bool:
        """Run a part's sweep, or go on with it, for at most some seconds; whether it is complete.

        Raises `PartFailed`.
        """
        if self.is_complete(part):
            print(f"{part}: complete", flush=True)
            return True
        self.folder.mkdir(parents=True, exist_ok=True)
        latest = self.folder / "latest"
        others, before = latest.resolve(), self.run_of(part)
        resume = [] if before is None else [f"resume={before.resolve()}"]
        folder = f"results_dir={self.folder.resolve()}"
        process = subprocess.Popen([*PROGRAM, "sweep", *overrides, folder, *resume], cwd=ROOT)
        _wait(process, seconds)
        if process.returncode not in _MEASURED:
            raise PartFailed(f"{part}: the sweep ended with exit code {process.returncode}")
        if before is None and latest.resolve() == others:
            print(f"{part}: interrupted before it began; ask for it again", flush=True)
            return False
        run = latest.resolve().name if before is None else before.name
        self._path.write_text(json.dumps(self._runs() | {part: run}, indent=1) + "\n")
        is_complete = self.is_complete(part)
        print(f"{part}: {'complete' if is_complete else 'interrupted; ask for it again'}", flush=True)
        return is_complete

    def _runs(self) -> dict[str, str]:
        return json.loads(self._path.read_text()) if self._path.exists() else {}


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Until a sweep ends; after some seconds it is interrupted, and killed if that does not help."""
    for limit, number in ((seconds, signal.SIGINT), (_REPORT_SECONDS, signal.SIGKILL)):
        try:
            process.wait(timeout=limit)
            return
        except subprocess.TimeoutExpired:
            process.send_signal(number)
    process.wait()
