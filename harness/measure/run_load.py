"""What a run's own processes take from a worker while its calls are timed: nothing, if all is well."""

from __future__ import annotations

from collections.abc import Mapping

from gqabench.harness.machine.cpu_time import descendants, other_threads_cpu_seconds, process_cpu_seconds

THIS_PROCESS = "gqabench"
"""The process that asks and waits: its threads that watch and display."""


class RunLoad:
    """CPU time of a run's processes: of each environment's worker with its children, and of this one.

    A worker whose turn it is not is stopped (`WorkerProcess.rest`); what it started is not. That is seen on
    Linux alone.
    """

    def __init__(self, workers: Mapping[str, int]) -> None:
        self._workers = workers

    def cpu_seconds(self, timed: str) -> dict[str, float]:
        """Return the CPU time so far of all but the environment that is timed."""
        taken = {
            environment: sum(map(process_cpu_seconds, {pid, *descendants(pid)}))
            for environment, pid in self._workers.items()
            if environment != timed
        }
        return taken | {THIS_PROCESS: other_threads_cpu_seconds()}
