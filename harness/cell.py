"""Identity of a measurement: what must be equal for two of them to be of the same thing."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from harness.case import Arm, Case, InvalidCase, short_hash

_SOURCE_ROOT = Path(__file__).resolve().parents[1]
_MEASURED_SOURCES = ("attention_impls", "harness/worker")
_SOURCE_SUFFIXES = (".py", ".cpp", ".h")


def cell_id(
    case: Case | InvalidCase, arm: Arm, host: dict[str, Any] | None, source_root: Path = _SOURCE_ROOT
) -> str:
    """Hash of problem, implementation, code, library versions, driver and device.

    `host` is the description that the worker of the arm's environment gives of itself; None when it does not
    start. An implementation given as a file counts by its content, one of another package by its version.
    """
    host = host or {"libraries": {}, "cuda": None, "devices": []}
    return short_hash(
        {
            "case": case.case_id,
            "impl": arm.impl,
            "impl_source": " ".join(_file_hash(file) for file in arm.files if file is not None) or None,
            "plugin": _plugin_versions(arm, host),
            "environment": arm.environment,
            "python": host.get("python"),
            "source": source_hash(source_root),
            "libraries": host["libraries"],
            "cuda": host["cuda"],
            "driver": host.get("driver"),
            "devices": [device["name"] for device in host["devices"]],
        }
    )


@cache
def source_hash(source_root: Path = _SOURCE_ROOT) -> str:
    """Hash of the code that is measured and that measures: implementations and worker."""
    digest = hashlib.sha256()
    for folder in _MEASURED_SOURCES:
        files = [path for path in (source_root / folder).rglob("*") if path.suffix in _SOURCE_SUFFIXES]
        for path in sorted(files):
            digest.update(path.relative_to(source_root).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _plugin_versions(arm: Arm, host: dict[str, Any]) -> str | None:
    """Of an implementation of another package, or of those of a pair; None without one."""
    versions = (host.get("plugins", {}).get(part) for part in arm.parts)
    return " ".join(version for version in versions if version) or None


def _file_hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]
