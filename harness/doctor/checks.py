"""What disturbs measuring on a machine: each check is a function of observed facts to a finding.

A fact that is None was not seen, and gives no finding. `gqabench.harness.cli.doctor` looks, and prints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from gqabench.harness.machine.roofs import Roofs
from gqabench.results.flags import HARMLESS_CLOCK_REASONS, condition_flags

_GIB = 2**30
_LITTLE_MEMORY_BYTES = 2 * _GIB
"""What a worker with torch, the inputs of the default studies and their float64 references need together."""
_NO_DISK_BYTES = 100 * 10**6
_LITTLE_DISK_BYTES = 10**9
_FOREIGN_GPU_BYTES = _GIB
"""More than a context of CUDA and what a display takes."""
_BUSY_GPU_SHARE = 0.02
"""A driver rounds to hundredths; one may be the driver's own."""
_STEAL_SHARE = 0.01
_UNSTEADY_SHARE = 0.2
"""By which the best read may beat the median one. Quiet machines stay below a tenth."""
_CAPPED_SHARE = 0.98
"""Of the highest clock; a limit closer to it is rounding."""
_NUM_NAMED = 3


class Level(StrEnum):
    """How bad a finding is. Warnings and problems disturb; a note is to be known."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"

    @property
    def disturbs(self) -> bool:
        return self in (Level.WARNING, Level.PROBLEM)


@dataclass(frozen=True)
class Finding:
    """The answer of one check."""

    check: str
    level: Level
    what: str
    fix: str | None = None
    """What to do about it, if anything"""


@dataclass(frozen=True)
class Neighbour:
    """A process that is not ours."""

    name: str
    pid: int
    num_cores: float
    """Cores that it kept busy, on average."""


@dataclass(frozen=True)
class Load:
    """What others did on this machine during a sample."""

    num_busy_cores: float
    steal_share: float
    """Of the time of all cores, what the hypervisor gave to other guests."""
    swapped_bytes: int
    neighbours: tuple[Neighbour, ...] = ()
    """Busiest first. Containers hide processes, not the cores that they keep busy."""


@dataclass(frozen=True)
class Observed:
    """The facts that the checks look at."""

    machine: dict[str, Any]
    """See `gqabench.harness.machine.description.describe_machine`."""
    num_cores: int
    num_usable_cores: int
    load: Load
    available_bytes: int
    swap_used_bytes: int
    is_on_battery: bool | None
    compiler: str | None
    results_dir: Path
    disk_free_bytes: int | None
    """None where nothing can be written."""
    has_nvidia_gpu: bool
    gpu_memory_bytes: Mapping[str, int]
    """By name of device: what is in use, our worker's share apart."""
    gpu_busy_shares: Mapping[str, float]
    """By name of device: the share of the time in which kernels ran while our worker was idle."""


def examine(observed: Observed) -> list[Finding]:
    """Make all checks; return the findings in the order in which to read them."""
    machine = observed.machine
    cpu, limits = machine.get("cpu", {}), machine.get("limits", {})
    num_threads = machine["threads"]["num_torch_threads"]
    num_cores = observed.num_usable_cores
    gpus = [device for device in machine["devices"] if device["device"] != "cpu"]
    findings = [
        check_neighbours(observed.load, observed.num_cores),
        check_steal(observed.load.steal_share),
        check_virtual_machine(cpu.get("is_virtual_machine")),
        check_threads(num_threads, num_cores, machine["threads"].get("OMP_NUM_THREADS")),
        check_spin_waits(num_threads, num_cores, observed.load.num_busy_cores),
        check_quota(limits.get("cpu_quota_cores"), num_threads),
        check_governor(cpu.get("governor")),
        check_clock_limit(cpu.get("frequency_limit_mhz"), cpu.get("max_frequency_mhz")),
        check_battery(observed.is_on_battery),
        check_turbo(cpu.get("turbo")),
        check_smt(cpu.get("smt")),
        check_numa(cpu.get("num_numa_nodes")),
        check_memory(observed.available_bytes),
        check_swap(observed.swap_used_bytes, observed.load.swapped_bytes),
        check_disk(observed.disk_free_bytes, observed.results_dir),
        check_compiler(observed.compiler),
        check_torch_build(observed.has_nvidia_gpu, len(gpus), machine["libraries"]),
    ]
    for gpu in gpus:
        device = gpu["device"]
        findings += check_gpu(
            gpu, observed.gpu_memory_bytes.get(device), observed.gpu_busy_shares.get(device)
        )
    return [finding for finding in findings if finding is not None]


def check_neighbours(load: Load, num_cores: int) -> Finding:
    """Check for other processes that use the CPU, by the limit of a record's flag `background_load`."""
    what = f"other processes keep {load.num_busy_cores:.2f} of {num_cores} cores busy"
    if not _is_busy(load.num_busy_cores, num_cores):
        return Finding("neighbours", Level.OK, what)
    named = [f"{one.name} ({one.pid}) {one.num_cores:.2f}" for one in load.neighbours[:_NUM_NAMED]]
    what += f": {', '.join(named)}" if named else "; none of them is visible from here"
    return Finding("neighbours", Level.WARNING, what, "end them, or wait until they have ended")


def check_steal(share: float) -> Finding | None:
    """Check the time that other guests of the same hypervisor took."""
    if share <= _STEAL_SHARE:
        return None
    what = f"the hypervisor gave {share:.1%} of the cores' time to other guests"
    return Finding("steal", Level.WARNING, what, "take a machine with cores of its own, or measure later")


def check_virtual_machine(is_virtual: bool | None) -> Finding | None:
    if not is_virtual:
        return None
    what = "this is a virtual machine: others on its host share the memory and the clocks, and are not seen"
    return Finding("virtual machine", Level.NOTE, what)


def check_threads(num_threads: int, num_usable_cores: int, omp_num_threads: str | None = None) -> Finding:
    """Check for more threads than cores, which run in turns. `omp_num_threads` is the variable of that name.

    A torch that is built with MKL takes no more threads than cores, whatever the variable says.
    """
    what = f"torch uses {num_threads} threads on {num_usable_cores} usable cores"
    if num_threads > num_usable_cores:
        return Finding("threads", Level.PROBLEM, what, f"OMP_NUM_THREADS={num_usable_cores}")
    asked = (omp_num_threads or "").partition(",")[0].strip()
    if asked.isdecimal() and int(asked) > num_usable_cores:
        what += f"; other OpenMP libraries will take OMP_NUM_THREADS={asked}"
        return Finding("threads", Level.WARNING, what, f"OMP_NUM_THREADS={num_usable_cores}")
    if num_threads < num_usable_cores:
        return Finding("threads", Level.NOTE, f"{what}: latencies and roofs are of so many threads")
    return Finding("threads", Level.OK, what)


def check_spin_waits(num_threads: int, num_usable_cores: int, num_busy_cores: float) -> Finding | None:
    """Check for threads that spin while one of them waits for a core, for whole time slices."""
    num_missing = num_busy_cores - (num_usable_cores - num_threads)
    if num_threads == 1 or num_threads > num_usable_cores or not _is_busy(num_missing, num_usable_cores):
        return None
    num_free = max(num_usable_cores - math.ceil(num_busy_cores), 1)
    what = (
        f"{num_threads} threads share {num_usable_cores} cores with neighbours: when one of them has to wait"
        " for a core, the others spin, and calls take whole time slices longer (4 ms and multiples)"
    )
    return Finding("spin waits", Level.WARNING, what, f"end the neighbours, or OMP_NUM_THREADS={num_free}")


def check_quota(quota_cores: float | None, num_threads: int) -> Finding | None:
    """Check the quota: a group that has used it up stops until the next period, of mostly 100 ms."""
    if quota_cores is None:
        return None
    what = f"the control group may use {quota_cores:g} cores, torch uses {num_threads} threads"
    if num_threads <= quota_cores:
        return Finding("CPU quota", Level.OK, what)
    fix = f"raise the quota (cpu.max), or OMP_NUM_THREADS={max(math.floor(quota_cores), 1)}"
    return Finding("CPU quota", Level.PROBLEM, f"{what}: calls will stop in the middle", fix)


def check_governor(governor: str | None) -> Finding | None:
    """Check the governor: any but `performance` lets the clock follow the load."""
    if governor is None:
        return None
    if governor == "performance":
        return Finding("governor", Level.OK, "the frequency governor is performance")
    what = f"the frequency governor is {governor}: clocks rise and fall while it measures"
    return Finding("governor", Level.WARNING, what, "sudo cpupower frequency-set --governor performance")


def check_clock_limit(limit_mhz: float | None, highest_mhz: float | None) -> Finding | None:
    """Check for a clock that somebody has limited."""
    if limit_mhz is None or highest_mhz is None or limit_mhz >= _CAPPED_SHARE * highest_mhz:
        return None
    what = f"the CPU's clock is limited to {limit_mhz:.0f} of {highest_mhz:.0f} MHz"
    fix = f"sudo cpupower frequency-set --max {highest_mhz:.0f}MHz"
    return Finding("clock limit", Level.WARNING, what, fix)


def check_battery(is_on_battery: bool | None) -> Finding | None:
    if not is_on_battery:
        return None
    return Finding("power", Level.WARNING, "the machine runs on its battery", "plug it in")


def check_turbo(turbo: bool | None) -> Finding | None:
    if not turbo:
        return None
    what = "turbo is on: the clock depends on heat and on how many cores work"
    return Finding("turbo", Level.NOTE, what)


def check_smt(smt: bool | None) -> Finding | None:
    if not smt:
        return None
    what = "two hardware threads share a core: neighbours slow us even where cores look idle"
    return Finding("SMT", Level.NOTE, what)


def check_numa(num_nodes: int | None) -> Finding | None:
    if num_nodes is None or num_nodes < 2:
        return None
    what = f"memory lies in {num_nodes} NUMA nodes: its speed depends on where threads run"
    return Finding("NUMA", Level.NOTE, what, "numactl --cpunodebind=0 --membind=0 gqabench ...")


def check_memory(num_bytes: int) -> Finding:
    what = f"{num_bytes / _GIB:.1f} GiB of memory are available"
    if num_bytes >= _LITTLE_MEMORY_BYTES:
        return Finding("memory", Level.OK, what)
    return Finding("memory", Level.WARNING, what, "end what uses it; cases that do not fit end as `oom`")


def check_swap(used_bytes: int, swapped_bytes: int) -> Finding | None:
    """Check for memory that went to disk, or is going there now."""
    if swapped_bytes > 0:
        what = f"the machine is swapping: {swapped_bytes / 2**20:.1f} MiB while we looked"
        return Finding("swap", Level.WARNING, what, "end what uses the memory")
    if used_bytes > 0:
        return Finding("swap", Level.NOTE, f"{used_bytes / 2**20:.0f} MiB are swapped out; none moved now")
    return None


def check_disk(free_bytes: int | None, results_dir: Path) -> Finding:
    """Check the room for records, figures and logs."""
    if free_bytes is None:
        what = f"{results_dir} cannot be written"
        return Finding("disk", Level.PROBLEM, what, "choose another folder: results_dir=FOLDER")
    what = f"{free_bytes / 1e9:.1f} GB are free for {results_dir}"
    if free_bytes >= _LITTLE_DISK_BYTES:
        return Finding("disk", Level.OK, what)
    level = Level.PROBLEM if free_bytes < _NO_DISK_BYTES else Level.WARNING
    return Finding("disk", level, what, "make room, or results_dir=FOLDER on another disk")


def check_compiler(compiler: str | None) -> Finding:
    if compiler is not None:
        return Finding("compiler", Level.OK, f"C compiler: {compiler}")
    what = "there is no C compiler: compiled implementations (flex_attention, Triton) cannot run"
    return Finding("compiler", Level.NOTE, what, "install gcc, or name one in CC")


def check_torch_build(has_gpu: bool, num_torch_gpus: int, libraries: Mapping[str, Any]) -> Finding | None:
    """Check for a GPU that torch cannot use."""
    if not has_gpu or num_torch_gpus > 0:
        return None
    torch = f"torch {libraries.get('torch')}"
    if libraries.get("cuda") is None:
        what, fix = (
            f"there is an NVIDIA GPU, and {torch} is built for CPUs only",
            "install a CUDA build of torch",
        )
    else:
        what = f"there is an NVIDIA GPU, and {torch} for CUDA {libraries['cuda']} does not find it"
        fix = "look at CUDA_VISIBLE_DEVICES, and at nvidia-smi for the CUDA version that the driver can do"
    return Finding("torch build", Level.PROBLEM, what, fix)


def check_gpu(
    gpu: Mapping[str, Any], foreign_bytes: int | None = None, busy_share: float | None = None
) -> list[Finding]:
    """Check what NVML tells of one GPU; what it does not tell is no finding."""
    name = gpu["device"]
    findings = []
    if foreign_bytes is not None and foreign_bytes > _FOREIGN_GPU_BYTES:
        what = f"other processes hold {foreign_bytes / _GIB:.1f} GiB of it"
        findings.append(Finding(name, Level.WARNING, what, "end them (nvidia-smi lists them)"))
    if busy_share is not None and busy_share > _BUSY_GPU_SHARE:
        what = f"other processes ran kernels for {busy_share:.0%} of the time"
        findings.append(Finding(name, Level.WARNING, what, "wait until they have ended"))
    if reasons := [one for one in gpu.get("throttle_reasons") or () if one not in HARMLESS_CLOCK_REASONS]:
        what = f"it holds its clocks back: {', '.join(reasons)}"
        findings.append(Finding(name, Level.WARNING, what, "look after its cooling and its power limit"))
    limit_w, default_w = gpu.get("power_limit_w"), gpu.get("default_power_limit_w")
    if limit_w is not None and default_w is not None and limit_w < _CAPPED_SHARE * default_w:
        what = f"its power limit is {limit_w:g} W, by default it is {default_w:g} W"
        findings.append(Finding(name, Level.WARNING, what, f"sudo nvidia-smi --power-limit={default_w:g}"))
    if gpu.get("persistence_mode") is False:
        what = "persistence mode is off: the driver loads anew for each first process"
        findings.append(Finding(name, Level.NOTE, what, "sudo nvidia-smi --persistence-mode=1"))
    return findings or [Finding(name, Level.OK, f"{gpu['name']}: nothing disturbs it")]


def check_roofs(roofs: Roofs) -> Finding:
    """Check for memory whose speed changes, and for cores that neighbours took meanwhile."""
    if roofs.is_disturbed:
        what = f"torch's threads got {roofs.cpu_share:.0%} of their cores' time: these roofs may be too low"
        return Finding("roofs", Level.WARNING, what, "end the neighbours, and run gqabench doctor again")
    best, median = roofs.read.best, roofs.read.median
    what = f"memory was read at {best:.4g} GB/s at best and {median:.4g} GB/s in the median"
    if best / median - 1 <= _UNSTEADY_SHARE:
        return Finding("roofs", Level.OK, what)
    what += ": its speed changes from one moment to the next"
    return Finding("roofs", Level.WARNING, what, "look for neighbours, on a virtual machine's host too")


def _is_busy(num_busy_cores: float, num_cores: int) -> bool:
    """Whether so many busy cores raise a record's flag."""
    flags = condition_flags(
        throttle_reasons=None,
        clock_mhz=None,
        clock_range_mhz=None,
        background_load=num_busy_cores,
        num_cores=num_cores,
    )
    return bool(flags)
