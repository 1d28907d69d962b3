"""Memory, and what a container or a control group allows of it and of the CPUs.

Read from files under a root, which tests make up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from gqabench.harness.machine.kernel_files import read_fields, read_text, without_unknown

_ROOT = Path("/")
_UNLIMITED_BYTES = 2**60
"""Control groups of version 1 write a number near 2^63 for no limit."""


def describe_memory(root: Path = _ROOT) -> dict[str, Any]:
    """Return sizes in bytes from `/proc/meminfo`, and the mode of transparent huge pages."""
    sizes = {}
    for name, value in read_fields(root / "proc/meminfo"):
        if value.endswith(" kB"):
            sizes[name] = int(value.removesuffix(" kB")) * 1024
    modes = read_text(root / "sys/kernel/mm/transparent_hugepage/enabled") or ""
    chosen = [mode for mode in modes.split() if mode.startswith("[")]
    return without_unknown(
        {
            "total_bytes": sizes.get("MemTotal"),
            "available_bytes": sizes.get("MemAvailable"),
            "swap_bytes": sizes.get("SwapTotal"),
            "transparent_huge_pages": chosen[0].strip("[]") if chosen else None,
        }
    )


def describe_limits(root: Path = _ROOT, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return what a control group allows: the tightest limit from our group up to the root's."""
    limits = [
        int(text)
        for folder in cgroup_folders(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (text := read_text(folder / name)) is not None
        and text.isdecimal()
        and int(text) < _UNLIMITED_BYTES
    ]
    return without_unknown(
        {
            "cpu_quota_cores": min(_cpu_quotas(root), default=None),
            "memory_limit_bytes": min(limits, default=None),
            "container_guess": _container(root, environment),
        }
    )


def cgroup_folders(root: Path, controller: str) -> list[Path]:
    """Return the folders of our control group and of those above it, in the mounts of a controller.

    Version 2 keeps all controllers in one tree, version 1 a tree for each; both may be mounted. A container
    sees its own group as the root of the mount.
    """
    own_groups: dict[str, PurePosixPath] = {}
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, group = line.split(":", 2)
        own_groups |= {name: PurePosixPath(group) for name in controllers.split(",")}
    folders = []
    for line in (read_text(root / "proc/self/mountinfo") or "").splitlines():
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


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Yield the cores that each control group above us may use."""
    for folder in cgroup_folders(root, "cpu"):
        if (text := read_text(folder / "cpu.max")) is not None:
            quota, _, period = text.partition(" ")
        else:
            quota = read_text(folder / "cpu.cfs_quota_us") or ""
            period = read_text(folder / "cpu.cfs_period_us") or ""
        if quota.isdecimal() and period.isdecimal():  # no limit is `max`, or -1
            yield int(quota) / int(period)


def _container(root: Path, environment: Mapping[str, str]) -> str | None:
    """Return the kind of container that we seem to run in, by the traces that each kind leaves."""
    if "KUBERNETES_SERVICE_HOST" in environment:
        return "kubernetes"
    if (root / "run/.containerenv").exists():
        return "podman"
    if (root / ".dockerenv").exists():
        return "docker"
    groups = read_text(root / "proc/self/cgroup") or ""
    kinds = {"kubepods": "kubernetes", "libpod": "podman", "docker": "docker", "lxc": "lxc", "slurm": "slurm"}
    return next((kind for word, kind in kinds.items() if word in groups), None)
