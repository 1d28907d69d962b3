"""The CPU: model, topology, clocks and caches, from files under a root, which tests make up."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gqabench.harness.machine.kernel_files import as_number, read_fields, read_text, without_unknown

_ROOT = Path("/")


def describe_cpu(root: Path = _ROOT) -> dict[str, Any]:
    """Describe model, topology, clocks and caches, from `/proc/cpuinfo` and `/sys/devices/system`."""
    info = _cpuinfo(root)
    cpus = root / "sys/devices/system/cpu"
    packages = {read_text(path) for path in cpus.glob("cpu[0-9]*/topology/physical_package_id")}
    cores = {
        (read_text(path), read_text(path.with_name("core_id")))
        for path in cpus.glob("cpu[0-9]*/topology/physical_package_id")
    }
    smt = read_text(cpus / "smt/active")
    return without_unknown(
        {
            "model": info.get("model name"),
            "microcode": info.get("microcode"),
            "firmware": _firmware(root),
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
            "frequency_mhz": as_number(info.get("cpu MHz")),
            "turbo": _turbo(cpus),
            "caches": _caches(cpus),
        }
    )


def _cpuinfo(root: Path) -> dict[str, str]:
    """Return the first processor's lines."""
    info: dict[str, str] = {}
    for name, value in read_fields(root / "proc/cpuinfo"):
        info.setdefault(name, value)
    return info


def _firmware(root: Path) -> str | None:
    """Return the version of the board's firmware, with its date: what sets clocks and memory timings."""
    version = read_text(root / "sys/class/dmi/id/bios_version")
    date = read_text(root / "sys/class/dmi/id/bios_date")
    return version if version is None or date is None else f"{version} ({date})"


def _hypervisor(root: Path) -> str | None:
    """Return the hypervisor's name, if the firmware or the kernel reports it."""
    vendor = read_text(root / "sys/class/dmi/id/sys_vendor")
    product = read_text(root / "sys/class/dmi/id/product_name")
    if "hypervisor" not in _cpuinfo(root).get("flags", "").split():
        return None
    return read_text(root / "sys/hypervisor/type") or " ".join(filter(None, [vendor, product])) or None


def _turbo(cpus: Path) -> bool | None:
    """Return whether cores may run above their nominal frequency."""
    no_turbo, boost = read_text(cpus / "intel_pstate/no_turbo"), read_text(cpus / "cpufreq/boost")
    if no_turbo is not None:
        return no_turbo == "0"
    return None if boost is None else boost == "1"


def _caches(cpus: Path) -> dict[str, Any]:
    """Return for each kind (`l1d`, `l2`, ...) the bytes of one cache, and the number of caches."""
    sizes: dict[str, int] = {}
    sharers: dict[str, set[str]] = {}
    for index in sorted(cpus.glob("cpu[0-9]*/cache/index[0-9]*")):
        level, kind, size = (read_text(index / name) for name in ("level", "type", "size"))
        if level is None or kind is None or size is None or not size.endswith("K"):
            continue
        name = f"l{level}" + {"Data": "d", "Instruction": "i"}.get(kind, "")
        sizes[name] = int(size.removesuffix("K")) * 1024
        sharers.setdefault(name, set()).add(read_text(index / "shared_cpu_list") or str(index))
    return {
        name: {"size_bytes": num_bytes, "num_caches": len(sharers[name])} for name, num_bytes in sizes.items()
    }


def _frequency_mhz(cpus: Path, name: str) -> float | None:
    """Return the highest frequency of all cores; the kernel writes kHz."""
    values = [as_number(read_text(path)) for path in cpus.glob(f"cpu[0-9]*/cpufreq/{name}")]
    return max((value / 1e3 for value in values if value is not None), default=None)


def _distinct(files: Iterable[Path]) -> str | None:
    """Return the distinct contents of the files of all cores."""
    return ", ".join(sorted({text for file in files if (text := read_text(file))})) or None
