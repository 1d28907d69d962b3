"""`gqabench.measure`: a sweep as a call that returns a frame."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gqabench.harness.errors import UsageError
from gqabench.harness.sweep.display_choice import make_display
from gqabench.harness.sweep.hydra_errors import mistakes_explained
from gqabench.harness.sweep.interruption import interrupted_between_imports
from gqabench.harness.sweep.job import run_job
from gqabench.harness.sweep.overrides import Value, hydra_arguments, overrides_of
from gqabench.harness.sweep.own_hydra import own_hydra
from gqabench.harness.sweep.progress import SilentDisplay
from gqabench.harness.sweep.run import measure_run
from gqabench.harness.sweep.sweeper import SweepRequest

if TYPE_CHECKING:
    import pandas as pd

_ONE_AT_A_TIME = threading.Lock()


def measure(
    *,
    impls: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
    study: str | None = None,
    measure: str | Mapping[str, Value] | None = None,
    environments: Mapping[str, Mapping[str, str]] | None = None,
    results_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **keys: Value,
) -> pd.DataFrame:
    """Measure cases in worker processes and return their records, one row each, columns as of `load`.

    These are the cases of `gqabench sweep -m` with the same keys, and they make a run on disk as there:
    `frame.attrs["run"]` is its folder. It has no report; `gqabench.report(frame)` writes one.

    Args:
        impls: Names of implementations, or `path/to/file.py:Class`; after `NAME:` of an environment.
        study: A named sweep, whose keys the others replace.
        measure: `smoke`, `standard` or `thorough`, or single settings such as `{"energy": False}`.
        environments: By name, `{"python": PATH}` of another interpreter, or `{"source": PATH}` of a checkout.
        results_dir: The folder that the run's folder is made in; default: `results/runs`.
        progress: Whether to show what is measured: in a notebook, on a terminal, or as lines of a log.
        keys: All other keys of a sweep, such as `model`, `batch_size`, `kv_len`, `num_kv_heads`, `dtype`,
            `device`. A list is an axis: every combination is measured. A dotted key or a group of Hydra is
            given as `**{"measure.energy": False}`.

    A failure is a row with an `outcome` and a `reason`, not an exception.

    Raises:
        UsageError: A `ValueError` of one line, for a key or a value that is wrong; nothing is measured then.
        KeyboardInterrupt: After Ctrl-C. What was measured is in the run, whose folder the message names.
        RuntimeError: Another thread of this process is measuring.
    """
    if keys.get("report"):
        raise UsageError("report=true: measure writes no report; gqabench.report(frame) does")
    named = {
        "study": study, "measure": measure, "environments": environments, "results_dir": results_dir,
        "impls": impls,
    }  # fmt: skip
    overrides = overrides_of({key: value for key, value in named.items() if value is not None} | keys)
    if not _ONE_AT_A_TIME.acquire(blocking=False):
        raise RuntimeError("this process is measuring already: two measurements would disturb each other")
    try:
        return _measure(overrides, progress)
    finally:
        _ONE_AT_A_TIME.release()


def _measure(overrides: Sequence[str], progress: bool) -> pd.DataFrame:
    request = SweepRequest(shlex.join(["gqabench", "sweep", "-m", *overrides]), is_multirun=True)
    with interrupted_between_imports():
        run = measure_run(
            request, make_display() if progress else SilentDisplay(), lambda: _run_hydra(overrides)
        )
    folder = run.folder.path.resolve()
    if not run.is_complete:
        raise KeyboardInterrupt(f"interrupted; what was measured is in {folder}")
    from gqabench.results.store.frame import records_to_frame

    frame = records_to_frame(run.rows)
    frame.attrs["run"] = str(folder)  # text: what a frame is written with must be JSON
    return frame


def _run_hydra(overrides: Sequence[str]) -> None:
    with mistakes_explained(), own_hydra() as hydra:
        hydra.multirun("sweep", run_job, hydra_arguments(overrides), with_log_configuration=False)
