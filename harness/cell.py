"""Identity of a measurement: what must be equal for two of them to be of the same thing."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from harness.case import Arm, Case, InvalidCase, short_hash

_SOURCE_ROOT = Path(__file__).resolve().parents[1]
_MEASURED_SOURCES = ("attention_impls", "harness/worker")


def cell_id(case: Case | InvalidCase, arm: Arm, host: dict[str, Any]) -> str:
    """Hash of problem, implementation, code, library versions, driver and device.

    `host` is the worker's description of itself. An implementation given as a file counts by its content.
    """
    return short_hash(
        {
            "case": case.case_id,
            "impl": arm.impl,
            "impl_source": _file_hash(arm.impl),
            "environment": arm.environment,
            "source": source_hash(),
            "libraries": host["libraries"],
            "cuda": host["cuda"],
            "driver": host.get("driver"),
            "devices": [device["name"] for device in host["devices"]],
        }
    )


@cache
def source_hash() -> str:
    """Hash of the code that is measured and that measures: implementations and worker."""
    digest = hashlib.sha256()
    for folder in _MEASURED_SOURCES:
        for path in sorted((_SOURCE_ROOT / folder).rglob("*.py")):
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _file_hash(impl: str) -> str | None:
    file, _, _ = impl.rpartition(":")
    if not file.endswith(".py"):
        return None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]
