"""Warm workers, one per environment, kept from case to case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.worker_process import Environment, WorkerFailed, WorkerProcess

_START_TIMEOUT_S = 300.0


class WorkerPool:
    """Starts workers when they are needed and replaces those that have ended."""

    def __init__(self, log_folder: Path | None = None) -> None:
        self._log_folder = log_folder
        self._workers: dict[str, WorkerProcess] = {}
        self._hosts: dict[str, dict[str, Any]] = {}

    def start(self, environment: Environment) -> WorkerProcess:
        """A worker of the environment that has not ended, without waiting for it to be ready."""
        if environment.name not in self._workers:
            log = None if self._log_folder is None else self._log_folder / f"worker-{environment.name}.log"
            self._workers[environment.name] = WorkerProcess(environment, log)
        return self._workers[environment.name]

    def host(self, environment: Environment) -> dict[str, Any]:
        """What the environment's interpreter can use. Raises `WorkerFailed` when no worker starts."""
        if environment.name not in self._hosts:
            self._hosts[environment.name] = self.start(environment).describe_host(_START_TIMEOUT_S)
        return self._hosts[environment.name]

    def ready(self, environment: Environment) -> WorkerProcess:
        """A worker that answers. Raises `WorkerFailed` when none starts."""
        self.host(environment)
        worker = self._workers.get(environment.name)
        if worker is None:
            worker = self.start(environment)
            try:
                worker.describe_host(_START_TIMEOUT_S)
            except WorkerFailed:
                self.discard(environment)
                raise
        return worker

    def discard(self, environment: Environment) -> None:
        """End an environment's worker; the next use starts another."""
        worker = self._workers.pop(environment.name, None)
        if worker is not None:
            worker.kill()

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()
