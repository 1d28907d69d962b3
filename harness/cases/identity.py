"""Identity of a measurement: what must be equal for two measurements to be of the same thing."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gqabench.harness.cases.case import Arm, Case, InvalidCase
from gqabench.harness.hashes import short_hash
from gqabench.harness.machine.host import HostDescription
from gqabench.harness.machine.source import SOURCE_ROOT, source_hash


def cell_id(
    case: Case | InvalidCase, arm: Arm, host: HostDescription | None, source_root: Path = SOURCE_ROOT
) -> str:
    """Return a hash of problem, implementation, code, library versions, driver and device.

    `host` is the description that the worker of the arm's environment gives of itself; None if it does not
    start. An implementation given as a file counts by its content, one of another package by its version.
    """
    return short_hash(
        {
            "case": case.case_id,
            "impl": arm.impl,
            "impl_source": " ".join(_file_hash(file) for file in arm.files if file is not None) or None,
            "plugin": _plugin_versions(arm, host),
            "environment": arm.environment,
            "python": None if host is None else host.python,
            "source": source_hash(source_root),
            "libraries": {} if host is None else dict(host.libraries),
            "cuda": None if host is None else host.cuda,
            "driver": None if host is None else host.driver,
            "devices": [] if host is None else [device.name for device in host.devices],
        }
    )


def _plugin_versions(arm: Arm, host: HostDescription | None) -> str | None:
    """Return the package versions of an arm's plug-ins; None without any."""
    versions = (host.plugins.get(part) for part in arm.parts) if host is not None else ()
    return " ".join(version for version in versions if version) or None


def _file_hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]
