"""The Hydra job: one case, measured by the warm worker of the process that it runs in.

Any Hydra launcher can run it: it needs only its configuration and the run's folder.
"""

from __future__ import annotations

import atexit
import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from gqabench.harness.cases.arms import read_arms
from gqabench.harness.cases.case import Arm, Case, InvalidCase
from gqabench.harness.cases.plan import plan_case
from gqabench.harness.errors import UsageError
from gqabench.harness.instruments.instrument_set import Instruments
from gqabench.harness.instruments.roof_gauge import RoofGauge
from gqabench.harness.machine.host import HostDescription
from gqabench.harness.machine.nvml import open_nvml
from gqabench.harness.machine.roofs import Roofs
from gqabench.harness.measure.case_runner import CaseRunner
from gqabench.harness.measure.equipment import Equipment
from gqabench.harness.sweep.progress import Display, SilentDisplay
from gqabench.harness.workers.environments import CURRENT_ENVIRONMENT, Environment, read_environments
from gqabench.harness.workers.pool import WorkerPool
from gqabench.results import FINAL_OUTCOMES, Record, RecordWriter, RunFolder, load_runs
from gqabench.results.store.run_folder import LineWriter

LOG_FOLDER = "logs"


@dataclass
class JobProcess:
    """What the jobs of one process share: its workers, its record file and its display."""

    pool: WorkerPool
    display: Display
    environments: dict[str, Environment]
    runner: CaseRunner | None = None
    writer: RecordWriter | None = None
    conditions: LineWriter | None = None
    done_cells: frozenset[str] = frozenset()
    held_run: int | None = None
    """What keeps other sweeps out of the run: an open descriptor."""

    def hosts(self, config: DictConfig, folder: Path) -> dict[str, HostDescription]:
        """Return what the workers of a configuration's arms, and the current one, say of their hosts.

        Those that do not start are left out. Paths are relative to `folder`. Raises `UsageError`.
        """
        environments = read_environments(_plain(config.environments), folder)
        for name, environment in environments.items():
            if self.environments.setdefault(name, environment) != environment:
                raise UsageError(
                    f"environments.{name}: must be the same in all cases of a sweep; use two names"
                )
        arms = read_arms(_plain(config.impls), environments, folder)
        used = dict.fromkeys([CURRENT_ENVIRONMENT, *(arm.environment for arm in arms)])
        hosts = self.pool.hosts(environments[name] for name in used)
        self.pool.host(environments[CURRENT_ENVIRONMENT])  # raises the reason if it does not start
        return hosts

    def hold(self, folder: RunFolder) -> None:
        """Lock the run against other sweeps until `close`. Raises `BlockingIOError` if it is locked."""
        self.held_run = folder.hold()

    def open_run(self, folder: RunFolder) -> CaseRunner:
        """Open this process's part of a run, or return the one already open."""
        if self.runner is None:
            header = folder.header()
            own_name = f"{platform.node()}-{os.getpid()}"
            self.writer = folder.writer(own_name)
            self.conditions = folder.conditions_writer(own_name)
            self.done_cells = final_cells(folder)
            measured = header.machine.get("roofs", {})
            roofs = {device: Roofs.from_dict(values) for device, values in measured.items()}
            instruments = Instruments(open_nvml(), RoofGauge(roofs), conditions=self.conditions)
            self.runner = CaseRunner(header.run_id, Equipment(self.pool, self.environments, instruments))
            self.pool.keep_logs_in(folder.path / LOG_FOLDER)
        return self.runner

    def close(self) -> None:
        """Stop the workers; their standard error stays with the run."""
        self.display.stop()
        self.pool.close()
        for writer in (self.writer, self.conditions):
            if writer is not None:
                writer.close()
        if self.held_run is not None:
            os.close(self.held_run)
            self.held_run = None


_PROCESS: JobProcess | None = None


def job_process(display: Display | None = None) -> JobProcess:
    """Return this process's own `JobProcess`, created on first use.

    It starts the worker, which loads torch in the meantime.
    """
    global _PROCESS
    if _PROCESS is None:
        environments = {CURRENT_ENVIRONMENT: Environment(CURRENT_ENVIRONMENT)}
        _PROCESS = JobProcess(WorkerPool(), display or SilentDisplay(), environments)
        _PROCESS.pool.start(environments[CURRENT_ENVIRONMENT])
        atexit.register(close_job_process)
    return _PROCESS


def close_job_process() -> None:
    """Stop what this process started for its jobs."""
    global _PROCESS
    process, _PROCESS = _PROCESS, None
    if process is not None:
        process.close()


def run_job(config: DictConfig) -> None:
    """Measure the case of one composed configuration into the run's folder."""
    process = job_process()
    runtime = HydraConfig.get().runtime
    folder = Path(runtime.cwd)  # the command's folder, wherever a launcher runs this
    hosts = process.hosts(config, folder)
    runner = process.open_run(RunFolder(Path(runtime.output_dir)))
    case = plan_case(config, hosts, folder)
    arms = tuple(arm for arm in case.arms if runner.cell_id(case, arm) not in process.done_cells)
    process.display.begin_case(case)
    if arms:
        _run_case(process, runner, case, arms)
    process.display.end_case()


def _run_case(
    process: JobProcess, runner: CaseRunner, case: Case | InvalidCase, arms: tuple[Arm, ...]
) -> None:
    def on_record(record: Record) -> None:
        assert process.writer is not None
        process.writer.write(record)
        process.display.add_record(record)

    case = replace(case, arms=arms)
    if isinstance(case, InvalidCase):
        runner.run_invalid(case, on_record)
    else:
        runner.run(case, on_record)


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def final_cells(folder: RunFolder) -> frozenset[str]:
    """Return the cells that a run has a final record for, which a resumed sweep does not measure again."""
    rows = load_runs(folder.path).rows
    return frozenset(row["cell_id"] for row in rows if row["outcome"] in FINAL_OUTCOMES)
