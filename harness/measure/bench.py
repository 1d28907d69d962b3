"""The workers and instruments that cases are measured with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gqabench.harness.cases.case import Case
from gqabench.harness.instruments.instrument_set import Instruments
from gqabench.harness.workers.environments import Environment
from gqabench.harness.workers.pool import WorkerPool
from gqabench.harness.workers.process import WorkerFailed, WorkerProcess


@dataclass
class Bench:
    """One bench serves all cases of a process."""

    pool: WorkerPool
    environments: dict[str, Environment]
    instruments: Instruments

    def worker(self, environment: str) -> WorkerProcess:
        """The environment's worker, started where there is none. Raises `WorkerFailed`."""
        return self.pool.ready(self.environments[environment])

    def discard(self, environment: str) -> None:
        """End the environment's worker; the next use starts another."""
        self.pool.discard(self.environments[environment])

    def host(self, environment: str) -> dict[str, Any]:
        """What the environment's worker says of itself and its machine."""
        return self.pool.host(self.environments[environment])

    def known_host(self, environment: str) -> dict[str, Any] | None:
        """The same; None of an environment that does not start."""
        try:
            return self.host(environment)
        except WorkerFailed:
            return None

    def device_facts(self, case: Case) -> dict[str, Any] | None:
        """The description of the case's device, by the first worker that sees it; None where none does."""
        wanted = "cuda:0" if case.problem.device == "cuda" else case.problem.device
        hosts = [self.known_host(name) for name in dict.fromkeys(arm.environment for arm in case.arms)]
        devices = [device for host in hosts if host is not None for device in host["devices"]]
        return next((device for device in devices if device["device"] == wanted), None)
