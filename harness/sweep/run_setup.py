"""Opens the folder of a run: a new one with its header, or one to be resumed."""

from __future__ import annotations

import re
import secrets
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from gqabench.harness.cases.case import Case, InvalidCase
from gqabench.harness.errors import UsageError
from gqabench.harness.instruments.roofs import ask_for_roofs, roofs_for
from gqabench.harness.machine.description import describe_machine
from gqabench.harness.machine.devices import resolve_device
from gqabench.harness.machine.nvml import open_nvml
from gqabench.harness.machine.source import gqabench_version
from gqabench.harness.sweep.job import job_process
from gqabench.harness.workers.description import describe_environment
from gqabench.harness.workers.environments import CURRENT_ENVIRONMENT
from gqabench.harness.workers.process import RequestFailed
from gqabench.results import RunFolder, RunHeader
from gqabench.results.store.run_folder import LATEST_LINK


def open_run(config: DictConfig, cases: Sequence[Case | InvalidCase], command: str) -> RunFolder:
    """Open the run's folder for records, and point `latest` to it.

    Raises `UsageError` if `results_dir` cannot be written or `resume` is not a run.
    """
    results_dir = Path(config.results_dir)
    try:
        folder = (
            _create_run(config, cases, command, results_dir)
            if config.resume is None
            else _reopen_run(config, cases, results_dir)
        )
        folder.link_latest()
    except OSError as error:
        raise UsageError(f"results_dir={results_dir}: cannot be written: {error.strerror}") from error
    job_process().display.start(len(cases), sum(len(case.arms) for case in cases))
    return folder


def _create_run(
    config: DictConfig, cases: Sequence[Case | InvalidCase], command: str, results_dir: Path
) -> RunFolder:
    process = job_process()
    host = process.pool.host(process.environments[CURRENT_ENVIRONMENT])
    now = datetime.now(UTC)
    label = config.study or config.workload
    run_id = f"{now:%Y%m%d-%H%M%S}-{re.sub(r'[^A-Za-z0-9_-]', '_', label)}-{secrets.token_hex(2)}"
    header = RunHeader(
        run_id=run_id,
        status="running",
        created_at=now.isoformat(timespec="seconds"),
        command=command,
        study=config.study,
        num_planned_cases=len(cases),
        num_planned_records=sum(len(case.arms) for case in cases),
        seed=config.seed,
        measure=config.measure.name,
        gqabench_version=gqabench_version(),
        machine=describe_machine(host, open_nvml())
        | {"environments": _other_environments(cases), "roofs": _roofs(config, cases)},
    )
    folder = RunFolder.create(results_dir / run_id, header)
    process.hold(folder)
    return folder


def _other_environments(cases: Sequence[Case | InvalidCase]) -> dict[str, Any]:
    """Describe the arms' environments by name, except the current one: that is the machine's own."""
    process = job_process()
    used = dict.fromkeys(arm.environment for case in cases for arm in case.arms)
    environments = [process.environments[name] for name in used if name != CURRENT_ENVIRONMENT]
    hosts = process.pool.hosts(environments)
    return {one.name: describe_environment(one, hosts.get(one.name)) for one in environments}


def _roofs(config: DictConfig, cases: Sequence[Case | InvalidCase]) -> dict[str, dict[str, Any]]:
    """Measure the ceilings of the devices that the cases use, by device; empty if not asked for."""
    if not config.measure.roofs:
        return {}
    process = job_process()
    names = dict.fromkeys([CURRENT_ENVIRONMENT, *(arm.environment for case in cases for arm in case.arms)])
    hosts = process.pool.hosts(process.environments[name] for name in names)
    used = {resolve_device(case.shape_fields()["device"], *hosts.values()).device for case in cases}
    roofs: dict[str, dict[str, Any]] = {}
    for name, device in [(name, one) for name, host in hosts.items() for one in host.devices]:
        if device.device not in used or device.device in roofs:
            continue
        worker = process.pool.ready(process.environments[name])
        try:
            measured = roofs_for(device, hosts[name], partial(ask_for_roofs, worker, device))
        except RequestFailed as failure:
            warnings.warn(f"no roofs of {device.device}: {failure}", stacklevel=2)
        else:
            roofs[device.device] = measured.to_dict()
    return roofs


def _reopen_run(config: DictConfig, cases: Sequence[Case | InvalidCase], results_dir: Path) -> RunFolder:
    resume = config.resume
    path = results_dir / LATEST_LINK if resume == LATEST_LINK else Path(str(resume))
    folder = RunFolder(path.resolve())
    try:
        header = folder.header()
    except (OSError, ValueError):
        raise UsageError(f"resume={resume}: not a run's folder; name one, or `latest`") from None
    try:
        job_process().hold(folder)
    except BlockingIOError:
        raise UsageError(f"resume={resume}: another gqabench sweep is writing to it") from None
    planned = sum(len(case.arms) for case in cases)
    environments = header.machine.get("environments", {})
    now = _other_environments(cases)
    require_same_environments(resume, environments, now)
    folder.write_header(
        replace(
            header,
            status="running",
            num_planned_cases=len(cases),
            num_planned_records=planned,
            machine=_machine_now(dict(header.machine), config, cases) | {"environments": environments | now},
        )
    )
    return folder


def _machine_now(
    before: dict[str, Any], config: DictConfig, cases: Sequence[Case | InvalidCase]
) -> dict[str, Any]:
    """Return the machine of a resumed run.

    If it is another machine than before, it has roofs of its own, and the earlier ones are kept beside it.
    """
    process = job_process()
    host = process.pool.host(process.environments[CURRENT_ENVIRONMENT])
    now = describe_machine(host, open_nvml())
    if machine_identity(now) == machine_identity(before):
        return before
    earlier = before.pop("earlier_machines", [])
    return now | {"roofs": _roofs(config, cases), "earlier_machines": [*earlier, before]}


def machine_identity(machine: dict[str, Any]) -> tuple[object, ...]:
    """Return what identifies a machine: times of different processors or GPUs do not mix."""
    devices = tuple((device.get("name"), device.get("uuid")) for device in machine.get("devices", []))
    return machine.get("cpu", {}).get("model"), machine.get("cpu", {}).get("num_logical_cores"), devices


def require_same_environments(resume: Any, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise `UsageError` if an environment has other libraries than earlier in the run.

    Its rows would mix.
    """
    for name in before.keys() & now.keys():
        had, has = before[name].get("libraries", {}), now[name].get("libraries", {})
        changed = [
            library for library in sorted(had.keys() | has.keys()) if had.get(library) != has.get(library)
        ]
        if changed:
            library = "torch" if "torch" in changed else changed[0]
            raise UsageError(
                f"resume={resume}: environment {name} had {library} {had.get(library, 'none')} in this run,"
                f" and has {has.get(library, 'none')} now; give it another name"
            )
