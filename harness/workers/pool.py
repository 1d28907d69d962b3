"""Warm workers, one per environment, kept from case to case."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from gqabench.harness.machine.devices import identify_gpus
from gqabench.harness.machine.host import HostDescription
from gqabench.harness.machine.nvml import open_nvml
from gqabench.harness.workers.environments import Environment
from gqabench.harness.workers.process import WorkerFailed, WorkerProcess, without_chatter

_START_TIMEOUT_S = 300.0


class WorkerPool:
    """Starts workers when they are needed and replaces those that have ended."""

    def __init__(self) -> None:
        self._workers: dict[str, WorkerProcess] = {}
        self._hosts: dict[str, HostDescription] = {}
        self._dead: dict[str, WorkerFailed] = {}
        """Why environments of which no worker ever answered did not: they are not asked again."""
        self._log_folder = tempfile.TemporaryDirectory(prefix="gqabench-")
        self._kept_logs: Path | None = None

    def keep_logs_in(self, folder: Path) -> None:
        """Choose where the workers' standard error goes when the pool closes, if they said anything."""
        self._kept_logs = folder

    def start(self, environment: Environment) -> WorkerProcess:
        """Return a worker of the environment, without waiting for it to be ready."""
        if environment.name not in self._workers:
            log = Path(self._log_folder.name) / f"worker-{environment.name}.log"
            self._workers[environment.name] = WorkerProcess(environment, log)
        return self._workers[environment.name]

    def host(self, environment: Environment) -> HostDescription:
        """Return what the environment's interpreter can use. Raises `WorkerFailed` when no worker starts."""
        if environment.name not in self._hosts:
            self._greet(environment)
        return self._hosts[environment.name]

    def hosts(self, environments: Iterable[Environment]) -> dict[str, HostDescription]:
        """Describe those environments whose workers answer; all start at the same time."""
        environments = list(environments)
        for environment in environments:
            if environment.name not in self._hosts and environment.name not in self._dead:
                self.start(environment)
        described = {}
        for environment in environments:
            with suppress(WorkerFailed):
                described[environment.name] = self.host(environment)
        return described

    def ready(self, environment: Environment) -> WorkerProcess:
        """Return a worker that answers; all others rest. Raises `WorkerFailed` when none starts."""
        if environment.name not in self._workers or environment.name not in self._hosts:
            self._greet(environment)
        for name, worker in self._workers.items():
            if name != environment.name:
                worker.rest()
        return self._workers[environment.name]

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
        try:
            self._keep_logs()
        except OSError as error:  # such as a full disk, which must not hide how the sweep ended
            print(
                f"{self._kept_logs}: the logs of the workers are not kept: {error.strerror}", file=sys.stderr
            )
        self._log_folder.cleanup()

    def _keep_logs(self) -> None:
        if self._kept_logs is None:
            return
        for log in Path(self._log_folder.name).iterdir():
            with log.open("rb") as file:
                said = b"".join(without_chatter(file))
            if said:
                self._kept_logs.mkdir(exist_ok=True)
                with (self._kept_logs / log.name).open("ab") as kept:
                    kept.write(said)

    def _greet(self, environment: Environment) -> None:
        if environment.name in self._dead:
            raise self._dead[environment.name]
        worker = self.start(environment)
        try:
            host = worker.describe_host(_START_TIMEOUT_S)
        except WorkerFailed as failure:
            self.discard(environment)
            if environment.name not in self._hosts:
                self._dead[environment.name] = failure
            raise
        if any(device.uuid is not None for device in host.devices):
            host = replace(host, devices=identify_gpus(host.devices, open_nvml(), environment.variables))
        self._hosts[environment.name] = host
