"""The workers and instruments that cases are measured with."""

from __future__ import annotations

from dataclasses import dataclass

from gqabench.harness.cases.case import Case
from gqabench.harness.instruments.instrument_set import Instruments
from gqabench.harness.machine.host import Device, HostDescription
from gqabench.harness.workers.environments import Environment
from gqabench.harness.workers.pool import WorkerPool
from gqabench.harness.workers.process import WorkerFailed, WorkerProcess


@dataclass
class Equipment:
    """One set serves all cases of a process."""

    pool: WorkerPool
    environments: dict[str, Environment]
    instruments: Instruments

    def worker(self, environment: str) -> WorkerProcess:
        """Return the environment's worker, started where there is none. Raises `WorkerFailed`."""
        return self.pool.ready(self.environments[environment])

    def discard(self, environment: str) -> None:
        """End the environment's worker; the next use starts another."""
        self.pool.discard(self.environments[environment])

    def host(self, environment: str) -> HostDescription:
        """Return what the environment's worker says of itself. Raises `WorkerFailed`."""
        return self.pool.host(self.environments[environment])

    def known_host(self, environment: str) -> HostDescription | None:
        """Return the same; None of an environment that does not start."""
        try:
            return self.host(environment)
        except WorkerFailed:
            return None

    def device_of(self, case: Case) -> Device | None:
        """Return the case's device, as the first worker that sees it describes it; None where none does."""
        hosts = map(self.known_host, dict.fromkeys(arm.environment for arm in case.arms))
        devices = (host.device(case.problem.device) for host in hosts if host is not None)
        return next((device for device in devices if device is not None), None)
