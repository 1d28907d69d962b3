"""What a run's own processes take from a worker while its calls are timed: nothing, if all is well."""

from __future__ import annotations

import os
from collections.abc import Mapping

import psutil

from gqabench.harness.machine.cpu_time import other_threads_cpu_seconds, process_cpu_seconds

THIS_PROCESS = "gqabench"
"""The process that asks and waits: its threads that watch and display."""


class RunLoad:
    """CPU time of a run's processes: of each environment's worker with its children, and of this one.

    A worker whose turn it is not is stopped (`WorkerProcess.rest`); its children are not. Children that are
    born later are not seen.
    """

    def __init__(self, workers: Mapping[str, int]) -> None:
        self._families = {environment: _family(pid) for environment, pid in workers.items()}

    def cpu_seconds(self, timed: str) -> dict[str, float]:
        """Return the CPU time so far of all but the environment that is timed."""
        taken = {
            environment: sum(map(process_cpu_seconds, pids))
            for environment, pids in self._families.items()
            if environment != timed
        }
        return taken | {THIS_PROCESS: other_threads_cpu_seconds()}


def _family(pid: int) -> frozenset[int]:
    assert pid != os.getpid(), "a worker is a process of its own"
    try:
        return frozenset({pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))})
    except psutil.Error:
        return frozenset({pid})
