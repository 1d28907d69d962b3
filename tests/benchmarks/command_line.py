"""gqabench as a user runs it: the command line of a checkout, in a process of its own, timed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # scripts that import this one run from anywhere

from gqabench import results  # noqa: E402

_PROGRAM = "import sys; from gqabench.harness.cli import main; sys.exit(main())"


def run_command(*arguments: str, build: Path = ROOT) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run one command of a checkout; return what it printed, and the seconds that it took."""
    began_s = time.perf_counter()
    finished = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments], cwd=build, capture_output=True, text=True, check=False
    )
    return finished, time.perf_counter() - began_s


def run_sweep(keys: Sequence[str], build: Path = ROOT) -> tuple[pd.DataFrame, float]:
    """Run one sweep of a checkout; return its records, and the seconds that it took.

    Exits where the sweep fails.
    """
    with tempfile.TemporaryDirectory(prefix="gqabench-") as folder:
        finished, seconds = run_command("sweep", *keys, f"results_dir={folder}", "report=false", build=build)
        if finished.returncode:
            sys.exit(finished.stderr)
        return results.load(Path(folder) / "latest"), seconds


def half_intervals(rows: pd.DataFrame) -> pd.Series[float]:
    """Return half of each latency's interval, as a share of it; older checkouts store no such column."""
    return (rows.latency_ci_high_ms - rows.latency_ci_low_ms) / (2 * rows.latency_ms)
