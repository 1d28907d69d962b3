"""The machine and its software, described once for a run. Imports no torch: the worker tells its part."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from harness.cell import source_hash
from harness.nvml import Nvml

_SOURCE_ROOT = Path(__file__).resolve().parents[1]


def describe_machine(host: dict[str, Any], nvml: Nvml) -> dict[str, Any]:
    """Facts in sections; what is not known is left out."""
    gpus = [device for device in host["devices"] if device["uuid"] is not None]
    return {
        "system": {
            "hostname": platform.node(),
            "os": platform.platform(),
            "python": host["python"],
            "cores": os.cpu_count(),
            "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "memory_bytes": psutil.virtual_memory().total,
            "governor": _read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        },
        "devices": [
            device | (nvml.describe(device["uuid"]) if device in gpus else {}) for device in host["devices"]
        ],
        "threads": {
            "num_torch_threads": host["num_threads"],
            **{
                key: value
                for key, value in os.environ.items()
                if key in {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}
            },
        },
        "libraries": host["libraries"] | {"cuda": host["cuda"], "cudnn": host["cudnn"]},
        "code": {"gqabench": gqabench_version(), "source_hash": source_hash(), **git_state(_SOURCE_ROOT)},
    }


def gqabench_version() -> str:
    """The installed version; `source` when it is run without being installed."""
    try:
        return version("gqabench")
    except PackageNotFoundError:
        return "source"


def git_state(folder: Path) -> dict[str, Any]:
    """Revision of a checkout and whether it has uncommitted changes; empty where there is none."""
    if not (folder / ".git").exists():
        return {}
    try:
        revision = _git(folder, "rev-parse", "HEAD")
        return {"git_revision": revision, "git_dirty": bool(_git(folder, "status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(folder: Path, *arguments: str) -> str:
    finished = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=20
    )
    return finished.stdout.strip()


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
