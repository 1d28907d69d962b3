"""Identity of a measurement: what must be equal for two measurements to be of the same thing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from gqabench.harness.cases.case import Arm, Case, InvalidCase
from gqabench.harness.hashes import short_hash
from gqabench.harness.machine.source import SOURCE_ROOT, source_hash


def cell_id(
    case: Case | InvalidCase, arm: Arm, host: dict[str, Any] | None, source_root: Path = SOURCE_ROOT
) -> str:
    """Return a hash of problem, implementation, code, library versions, driver and device.

    `host` is the description that the worker of the arm's environment gives of itself; None if it does not
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


def _plugin_versions(arm: Arm, host: dict[str, Any]) -> str | None:
    """Return the package versions of an arm's plug-ins; None without any."""
    versions = (host.get("plugins", {}).get(part) for part in arm.parts)
    return " ".join(version for version in versions if version) or None


def _file_hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]
