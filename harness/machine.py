"""The machine and its software, described once for a run. Imports no torch: the worker tells its part.

What the kernel tells is read from files under a root, which tests make up. What is not known is left out.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

from harness.cell import source_hash
from harness.environments import Environment
from harness.nvml import Nvml

_SOURCE_ROOT = Path(__file__).resolve().parents[1]
_LOCK = _SOURCE_ROOT / "requirements.lock"
_ROOT = Path("/")
_PACKAGES = ("conf", "harness", "attention_impls", "results", "reports")

_THREAD_VARIABLES = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ATEN_")
"""How the names of variables begin that set threads."""
_OTHER_VARIABLES = (
    "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING", "CUDA_VISIBLE_DEVICES", "LD_PRELOAD",
    "MALLOC_ARENA_MAX", "NVIDIA_TF32_OVERRIDE", "NVIDIA_VISIBLE_DEVICES", "ONEDNN_MAX_CPU_ISA",
    "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "THP_MEM_ALLOC_ENABLE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TRITON_INTERPRET",
)  # fmt: skip
"""Variables that can change a measurement. Others may hold secrets and stay out of a run."""

_UNLIMITED_BYTES = 2**60
"""Control groups of version 1 write a number near 2^63 for no limit."""


def describe_machine(host: dict[str, Any], nvml: Nvml) -> dict[str, Any]:
    """Facts in sections; `host` is a worker's description of itself."""
    return _known(
        {
            "system": describe_system() | {"python": host["python"]},
            "cpu": describe_cpu() | {"torch_capability": host.get("cpu_capability")},
            "memory": describe_memory(),
            "limits": describe_limits(),
            "devices": [
                device | (nvml.describe(device["uuid"]) if device["uuid"] is not None else {})
                for device in host["devices"]
            ],
            "threads": {
                "num_torch_threads": host["num_threads"],
                "usable_cpus": usable_cpus(),
                **_variables(_THREAD_VARIABLES),
            },
            "variables": _variables(_OTHER_VARIABLES),
            "libraries": host["libraries"] | {"cuda": host["cuda"], "cudnn": host["cudnn"]},
            "plugins": host.get("plugins"),
            "code": {
                "gqabench": gqabench_version(),
                "source_hash": source_hash(),
                "lock_sha256": lock_hash(_LOCK),
                **git_state(_SOURCE_ROOT),
            },
        }
    )


def describe_environment(environment: Environment, host: dict[str, Any] | None) -> dict[str, Any]:
    """Interpreter, libraries and code of an environment; `host` is its worker's word, if it gave one."""
    host = host or {}
    return _known(
        {
            "interpreter": environment.python,
            "python": host.get("python"),
            "libraries": host.get("libraries", {}) | {name: host.get(name) for name in ("cuda", "cudnn")},
            "plugins": host.get("plugins"),
            "num_torch_threads": host.get("num_threads"),
            "code": {"source_hash": source_hash(environment.source_root)}
            | git_state(environment.source_root),
        }
    )


def describe_system() -> dict[str, Any]:
    """The operating system and what every process of it shares."""
    c_library = " ".join(platform.libc_ver())
    return {
        "hostname": platform.node(),
        "os": _os_release().get("PRETTY_NAME") or platform.system(),
        "kernel": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "c_library": c_library.strip() or None,
        "python_implementation": platform.python_implementation(),
        "python_build": " ".join(platform.python_compiler().split()),
    }


def describe_cpu(root: Path = _ROOT) -> dict[str, Any]:
    """Model, topology, clocks and caches, from `/proc/cpuinfo` and `/sys/devices/system`."""
    info = _cpuinfo(root)
    cpus = root / "sys/devices/system/cpu"
    packages = {_read(path) for path in cpus.glob("cpu[0-9]*/topology/physical_package_id")}
    cores = {
        (_read(path), _read(path.with_name("core_id")))
        for path in cpus.glob("cpu[0-9]*/topology/physical_package_id")
    }
    smt = _read(cpus / "smt/active")
    return _known(
        {
            "model": info.get("model name"),
            "microcode": info.get("microcode"),
            "is_virtual_machine": "hypervisor" in info["flags"].split() if "flags" in info else None,
            "hypervisor": _hypervisor(root),
            "num_sockets": len(packages) or None,
            "num_physical_cores": len(cores) or None,
            "num_logical_cores": len(list(cpus.glob("cpu[0-9]*"))) or None,
            "smt": None if smt is None else smt == "1",
            "num_numa_nodes": len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) or None,
            "governor": _distinct(cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")),
            "frequency_driver": _distinct(cpus.glob("cpu[0-9]*/cpufreq/scaling_driver")),
            "energy_preference": _distinct(cpus.glob("cpu[0-9]*/cpufreq/energy_performance_preference")),
            "min_frequency_mhz": _frequency_mhz(cpus, "cpuinfo_min_freq"),
            "max_frequency_mhz": _frequency_mhz(cpus, "cpuinfo_max_freq"),
            "frequency_limit_mhz": _frequency_mhz(cpus, "scaling_max_freq"),
            "frequency_mhz": _number(info.get("cpu MHz")),
            "turbo": _turbo(cpus),
            "caches": _caches(cpus),
        }
    )


def describe_memory(root: Path = _ROOT) -> dict[str, Any]:
    """Sizes in bytes from `/proc/meminfo`, and the mode of transparent huge pages."""
    sizes = {}
    for name, value in _fields(root / "proc/meminfo"):
        if value.endswith(" kB"):
            sizes[name] = int(value.removesuffix(" kB")) * 1024
    modes = _read(root / "sys/kernel/mm/transparent_hugepage/enabled") or ""
    chosen = [mode for mode in modes.split() if mode.startswith("[")]
    return _known(
        {
            "total_bytes": sizes.get("MemTotal"),
            "available_bytes": sizes.get("MemAvailable"),
            "swap_bytes": sizes.get("SwapTotal"),
            "transparent_huge_pages": chosen[0].strip("[]") if chosen else None,
        }
    )


def describe_limits(root: Path = _ROOT, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What a container or a control group allows: the tightest limit from our group up to the root's."""
    limits = [
        int(text)
        for folder in cgroup_folders(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (text := _read(folder / name)) is not None and text.isdecimal() and int(text) < _UNLIMITED_BYTES
    ]
    return _known(
        {
            "cpu_quota_cores": min(_cpu_quotas(root), default=None),
            "memory_limit_bytes": min(limits, default=None),
            "container_guess": _container(root, environment),
        }
    )


def cgroup_folders(root: Path, controller: str) -> list[Path]:
    """The folders of our control group and of those above it, in the mounts of a controller.

    Version 2 keeps all controllers in one tree, version 1 a tree for each; both may be mounted. A container
    sees its own group as the root of the mount.
    """
    own_groups: dict[str, PurePosixPath] = {}
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, group = line.split(":", 2)
        own_groups |= {name: PurePosixPath(group) for name in controllers.split(",")}
    folders = []
    for line in (_read(root / "proc/self/mountinfo") or "").splitlines():
        mount, _, filesystem = line.partition(" - ")
        kind, _, options = filesystem.split(" ", 2)
        key = "" if kind == "cgroup2" else controller
        is_ours = kind == "cgroup2" or (kind == "cgroup" and controller in options.split(" ")[-1].split(","))
        if not is_ours or key not in own_groups:
            continue
        mount_root, mount_point = mount.split(" ")[3:5]
        own = own_groups[key]
        below = own.relative_to(mount_root) if own.is_relative_to(mount_root) else PurePosixPath()
        top = root / mount_point.lstrip("/")
        folders += [top / inner for inner in (below, *below.parents)]
    return folders


def usable_cpus() -> str | None:
    """The CPUs that this process may run on, as the kernel writes lists of them: `0-3,8`."""
    return _range_text(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None


def gqabench_version() -> str:
    """The installed version; `source` when it is run without being installed."""
    try:
        return version("gqabench")
    except PackageNotFoundError:
        return "source"


def git_state(folder: Path) -> dict[str, Any]:
    """Revision of a checkout, and whether files that count differ from it; empty where there is none.

    New files count in the packages, whose code would run.
    """
    if not (folder / ".git").exists():
        return {}
    try:
        revision = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "-uno")
        added = _git(folder, "ls-files", "--others", "--exclude-standard", "--", *_PACKAGES)
        return {"git_revision": revision, "git_dirty": bool(changed or added)}
    except (OSError, subprocess.SubprocessError):
        return {}


def lock_hash(lock: Path) -> str | None:
    """SHA-256 of the file of locked dependencies; None where there is none."""
    try:
        return hashlib.sha256(lock.read_bytes()).hexdigest()
    except OSError:
        return None


def _git(folder: Path, *arguments: str) -> str:
    finished = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=20
    )
    return finished.stdout.strip()


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first processor's lines."""
    info: dict[str, str] = {}
    for name, value in _fields(root / "proc/cpuinfo"):
        info.setdefault(name, value)
    return info


def _hypervisor(root: Path) -> str | None:
    """Its name, where the firmware or the kernel tells it."""
    vendor = _read(root / "sys/class/dmi/id/sys_vendor")
    product = _read(root / "sys/class/dmi/id/product_name")
    if "hypervisor" not in _cpuinfo(root).get("flags", "").split():
        return None
    return _read(root / "sys/hypervisor/type") or " ".join(filter(None, [vendor, product])) or None


def _turbo(cpus: Path) -> bool | None:
    """Whether cores may run above their nominal frequency."""
    no_turbo, boost = _read(cpus / "intel_pstate/no_turbo"), _read(cpus / "cpufreq/boost")
    if no_turbo is not None:
        return no_turbo == "0"
    return None if boost is None else boost == "1"


def _caches(cpus: Path) -> dict[str, Any]:
    """Of each kind (`l1d`, `l2`, ...): the bytes of one cache, and how many of it there are."""
    sizes: dict[str, int] = {}
    sharers: dict[str, set[str]] = {}
    for index in sorted(cpus.glob("cpu[0-9]*/cache/index[0-9]*")):
        level, kind, size = (_read(index / name) for name in ("level", "type", "size"))
        if level is None or kind is None or size is None or not size.endswith("K"):
            continue
        name = f"l{level}" + {"Data": "d", "Instruction": "i"}.get(kind, "")
        sizes[name] = int(size.removesuffix("K")) * 1024
        sharers.setdefault(name, set()).add(_read(index / "shared_cpu_list") or str(index))
    return {
        name: {"size_bytes": num_bytes, "num_caches": len(sharers[name])} for name, num_bytes in sizes.items()
    }


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Cores that each control group above us may use."""
    for folder in cgroup_folders(root, "cpu"):
        if (text := _read(folder / "cpu.max")) is not None:
            quota, _, period = text.partition(" ")
        else:
            quota = _read(folder / "cpu.cfs_quota_us") or ""
            period = _read(folder / "cpu.cfs_period_us") or ""
        if quota.isdecimal() and period.isdecimal():  # no limit is `max`, or -1
            yield int(quota) / int(period)


def _container(root: Path, environment: Mapping[str, str]) -> str | None:
    """The kind of container that we seem to be in, by the traces that each leaves."""
    if "KUBERNETES_SERVICE_HOST" in environment:
        return "kubernetes"
    if (root / "run/.containerenv").exists():
        return "podman"
    if (root / ".dockerenv").exists():
        return "docker"
    groups = _read(root / "proc/self/cgroup") or ""
    kinds = {"kubepods": "kubernetes", "libpod": "podman", "docker": "docker", "lxc": "lxc", "slurm": "slurm"}
    return next((kind for word, kind in kinds.items() if word in groups), None)


def _variables(names: tuple[str, ...]) -> dict[str, str]:
    """Environment variables whose names begin so."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(names)}


def _frequency_mhz(cpus: Path, name: str) -> float | None:
    """The highest of all cores; the kernel writes kHz."""
    values = [_number(_read(path)) for path in cpus.glob(f"cpu[0-9]*/cpufreq/{name}")]
    return max((value / 1e3 for value in values if value is not None), default=None)


def _distinct(files: Iterable[Path]) -> str | None:
    """What the files of all cores say, once each."""
    return ", ".join(sorted({text for file in files if (text := _read(file))})) or None


def _range_text(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _fields(file: Path) -> Iterator[tuple[str, str]]:
    """The `name: value` lines of a file."""
    for line in (_read(file) or "").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip(), value.strip()


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """Without what is unknown, at any depth of sections."""
    found = {key: _known_value(value) for key, value in values.items()}
    return {key: value for key, value in found.items() if value is not None and value != {}}


def _known_value(value: Any) -> Any:
    if isinstance(value, dict):
        return _known(value)
    return [_known_value(item) for item in value] if isinstance(value, list) else value


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
