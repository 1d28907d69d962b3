"""`gqabench doctor`: what will disturb measurements on this machine, and its measured roofs.

Exit code: 0 nothing disturbs, 1 something does, 2 the machine could not be inspected.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from gqabench.harness.doctor.checks import check_roofs, examine
from gqabench.harness.doctor.findings import Finding
from gqabench.harness.doctor.observed import Load, Neighbour, Observed
from gqabench.harness.errors import UsageError
from gqabench.harness.instruments.roofs import ask_for_roofs, measure_roofs_again
from gqabench.harness.machine.description import describe_machine
from gqabench.harness.machine.devices import AUTO, resolve_device
from gqabench.harness.machine.host import HostDescription
from gqabench.harness.machine.limits import cgroup_folders
from gqabench.harness.machine.nvml import Nvml, open_nvml
from gqabench.harness.machine.roofs import Roof, Roofs
from gqabench.harness.workers.environments import CURRENT_ENVIRONMENT, Environment
from gqabench.harness.workers.pool import WorkerPool
from gqabench.harness.workers.process import RequestFailed, WorkerFailed

_DEFAULT_RESULTS_DIR = Path("results/runs")
_SAMPLE_SECONDS = 1.0
_COMPILERS = ("cc", "gcc", "clang")


def main(arguments: list[str]) -> int:
    """Run `gqabench doctor` and return its exit code."""
    parser = argparse.ArgumentParser(prog="gqabench doctor", description=__doc__)
    parser.add_argument("--no-roofs", action="store_true", help="do not measure the roofs")
    parser.add_argument("--json", action="store_true", help="print findings, roofs and the machine as JSON")
    parser.add_argument(
        "--device", default=AUTO, help="device whose roofs are measured: auto, cpu, cuda or cuda:N"
    )
    parser.add_argument(
        "--results-dir", type=Path, default=_DEFAULT_RESULTS_DIR, help="folder that runs will be written to"
    )
    parsed = parser.parse_args(arguments)
    try:
        observed, device, roofs = _look(parsed)
    except (WorkerFailed, RequestFailed) as failure:
        raise UsageError(f"could not inspect this machine: {failure}") from failure
    findings = examine(observed)
    if roofs is not None:
        findings.append(check_roofs(roofs))
    if parsed.json:
        values = {
            "findings": [asdict(finding) for finding in findings],
            "roofs": None if roofs is None else roofs.to_dict(),
            "machine": observed.machine,
        }
        print(json.dumps(values, indent=1))
    else:
        print("\n".join([*finding_lines(findings), *([] if roofs is None else roof_lines(roofs, device))]))
    return int(any(finding.level.disturbs for finding in findings))


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """Format each finding as one line, and one more that says how to fix it."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<7}  {finding.check:<{width}}  {finding.what}")
        if finding.fix is not None:
            lines.append(f"{'':<7}  {'':<{width}}  fix: {finding.fix}")
    return lines


def roof_lines(roofs: Roofs, device: str) -> list[str]:
    """Format the measured ceilings of a device, one a line."""
    named = {"read": (roofs.read, "GB/s"), "copy": (roofs.copy, "GB/s")}
    named |= {f"matmul {dtype}": (roof, "TFLOP/s") for dtype, roof in roofs.matmul.items()}
    width = max(map(len, named))
    return [
        "",
        f"roofs of {device} (best repetition of the best method):",
        *(f"  {name:<{width}}  {_roof_text(roof, unit)}" for name, (roof, unit) in named.items()),
    ]


def _roof_text(roof: Roof, unit: str) -> str:
    repetitions = f"median {roof.median:.4g} of {roof.num_repetitions}"
    return f"{roof.best:8.4g} {unit:<7}  {repetitions:<22}  {roof.method}"


def _look(parsed: argparse.Namespace) -> tuple[Observed, str, Roofs | None]:
    """Start a worker, inspect the machine while it is idle, and let the worker measure the roofs of a device.

    Returns what was observed, the device's name, and the roofs unless they were not asked for.
    """
    environment = Environment(CURRENT_ENVIRONMENT)
    with closing(WorkerPool()) as pool:
        host = pool.host(environment)
        worker = pool.ready(environment)
        device = resolve_device(parsed.device, host)
        observed = observe(host, open_nvml(), worker.pid, parsed.results_dir)
        name = f"{device.device}, {device.name}"
        if parsed.no_roofs:
            return observed, name, None
        measured = ask_for_roofs(worker, device)
    measure_roofs_again(device, host, lambda: measured)  # stored for the next sweep
    return observed, name, measured


def _free_bytes(folder: Path) -> int | None:
    """Return the free bytes of a folder; None if not even an empty file can be created there."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return shutil.disk_usage(folder).free
    except OSError:
        return None


def observe(host: HostDescription, nvml: Nvml, worker_pid: int, results_dir: Path) -> Observed:
    """Observe the machine for one second. `host` is the description that the worker gave of itself."""
    before = take_snapshot()
    time.sleep(_SAMPLE_SECONDS)
    load = load_between(before, take_snapshot())
    battery = psutil.sensors_battery()
    num_cores = os.cpu_count() or 1
    return Observed(
        machine=describe_machine(host, nvml),
        num_cores=num_cores,
        num_usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else num_cores,
        load=load,
        available_bytes=available_bytes(),
        swap_used_bytes=psutil.swap_memory().used,
        is_on_battery=None if battery is None else not battery.power_plugged,
        compiler=next(filter(None, map(shutil.which, (os.environ.get("CC") or "cc", *_COMPILERS))), None),
        results_dir=results_dir,
        disk_free_bytes=_free_bytes(nearest_folder(results_dir)),
        has_nvidia_gpu=has_nvidia_gpu(),
        gpu_memory_bytes=dict(_foreign_gpu_memory(host, nvml, worker_pid)),
        gpu_busy_shares={
            device.device: utilisation.gpu
            for device in host.devices
            if device.uuid is not None and (utilisation := nvml.utilisation(device.uuid)) is not None
        },
    )


@dataclass(frozen=True)
class Snapshot:
    """Counters at one moment, in seconds of CPU time since boot."""

    at_s: float
    busy_s: float
    steal_s: float
    total_s: float
    swapped_bytes: int
    processes: Mapping[int, tuple[str, float]] = field(default_factory=dict)
    """By process id: name and CPU time."""
    own_pids: frozenset[int] = frozenset()


def take_snapshot() -> Snapshot:
    """Read the counters now, leaving out processes that end meanwhile or cannot be read."""
    times, swap = psutil.cpu_times(), psutil.swap_memory()
    seconds = {name: float(value) for name, value in times._asdict().items()}
    busy = sum(seconds.get(name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
    steal = seconds.get("steal", 0.0)
    idle = seconds.get("idle", 0.0) + seconds.get("iowait", 0.0)
    processes = {
        process.pid: (process.info["name"], process.info["cpu_times"].user + process.info["cpu_times"].system)
        for process in psutil.process_iter(["name", "cpu_times"])
        if process.info["cpu_times"] is not None
    }
    own = psutil.Process()
    return Snapshot(
        at_s=time.monotonic(),
        busy_s=busy,
        steal_s=steal,
        total_s=busy + steal + idle,
        swapped_bytes=swap.sin + swap.sout,
        processes=processes,
        own_pids=frozenset({own.pid, *(child.pid for child in own.children(recursive=True))}),
    )


def load_between(before: Snapshot, after: Snapshot) -> Load:
    """Return what other processes did between two snapshots.

    A process that started in between counts from its start.
    """
    seconds = after.at_s - before.at_s
    own_s = 0.0
    neighbours = []
    for pid, (name, cpu_s) in after.processes.items():
        used_s = cpu_s - before.processes.get(pid, (name, 0.0))[1]
        if pid in after.own_pids:
            own_s += used_s
        elif used_s > 0:
            neighbours.append(Neighbour(name, pid, used_s / seconds))
    total_s = after.total_s - before.total_s
    return Load(
        num_busy_cores=max(after.busy_s - before.busy_s - own_s, 0.0) / seconds,
        steal_share=(after.steal_s - before.steal_s) / total_s if total_s > 0 else 0.0,
        swapped_bytes=after.swapped_bytes - before.swapped_bytes,
        neighbours=tuple(sorted(neighbours, key=lambda one: one.num_cores, reverse=True)),
    )


def available_bytes(root: Path = Path("/")) -> int:
    """Return the available memory in bytes.

    It is the kernel's estimate, or what a control group's limit leaves, if that is less.
    """
    rooms = []
    for folder in cgroup_folders(root, "memory"):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            try:
                rooms.append(int((folder / limit).read_text()) - int((folder / used).read_text()))
            except (OSError, ValueError):  # no such file, or `max`
                continue
    return max(min([int(psutil.virtual_memory().available), *rooms]), 0)


def nearest_folder(path: Path) -> Path:
    """Return the folder itself, or the nearest one above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def has_nvidia_gpu(root: Path = Path("/")) -> bool:
    """Return whether an NVIDIA driver exposes a GPU, even if torch is a CPU build."""
    return any((root / "proc/driver/nvidia/gpus").glob("*")) or any((root / "dev").glob("nvidia[0-9]*"))


def _foreign_gpu_memory(host: HostDescription, nvml: Nvml, worker_pid: int) -> Iterator[tuple[str, int]]:
    for device in host.devices:
        if device.uuid is None:
            continue
        used = nvml.device_memory_bytes(device.uuid)
        if used is not None:
            yield device.device, used - (nvml.process_memory_bytes(device.uuid, worker_pid) or 0)
