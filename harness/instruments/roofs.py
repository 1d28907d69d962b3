"""Has a worker measure the roofs of a device, and keeps them from run to run. Imports no torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gqabench.attention_impls.cache_folder import user_cache_folder
from gqabench.harness.hashes import short_hash
from gqabench.harness.machine.cpu import describe_cpu
from gqabench.harness.machine.host import Device, HostDescription
from gqabench.harness.machine.limits import describe_limits
from gqabench.harness.machine.roofs import Roofs
from gqabench.harness.machine.source import SOURCE_ROOT
from gqabench.harness.workers.process import WorkerProcess

MAX_AGE = timedelta(days=7)
"""Drivers, microcode and neighbours change; what is older is measured again."""

_MEASURING_SOURCE = SOURCE_ROOT / "harness" / "worker" / "timing" / "roofs.py"
_TIMEOUT_S = 120.0

Measure = Callable[[], Roofs]


def roofs_for(device: Device, host: HostDescription, measure: Measure, folder: Path | None = None) -> Roofs:
    """Return the device's roofs: kept ones if they are of this machine and recent, else measured ones.

    Disturbed ones are returned, but not kept. `device` is one of the devices of `host`.
    """
    file = _RoofsFile(folder or user_cache_folder() / "roofs", fingerprint(device, host))
    kept = file.read()
    if kept is not None and kept.roofs.matmul.keys() >= set(device.dtypes):
        return kept.roofs
    roofs = measure()
    file.write(_KeptRoofs(roofs, datetime.now(UTC)))
    return roofs


def measure_roofs_again(
    device: Device, host: HostDescription, measure: Measure, folder: Path | None = None
) -> Roofs:
    """Measure, whatever is kept; keep the higher of both, and return it: for when a row beat the roofs.

    What is kept grows no younger by it, so that a roof which nothing reaches any more expires.
    """
    file = _RoofsFile(folder or user_cache_folder() / "roofs", fingerprint(device, host))
    roofs, measured_at = measure(), datetime.now(UTC)
    if (kept := file.read()) is not None:
        roofs, measured_at = roofs.higher_of(kept.roofs), kept.measured_at
    file.write(_KeptRoofs(roofs, measured_at))
    return roofs


def ask_for_roofs(worker: WorkerProcess, device: Device) -> Roofs:
    """Let a worker measure the roofs. Raises `WorkerFailed` or `RequestFailed`."""
    return worker.ask(Roofs, "measure_roofs", _TIMEOUT_S, device=device.device, dtypes=list(device.dtypes))


def fingerprint(device: Device, host: HostDescription) -> dict[str, Any]:
    """Return all that changes what a device's roofs measure as, the code that measures included."""
    facts: dict[str, Any] = {
        "machine": platform.node(),
        "name": device.name,
        "uuid": device.uuid,
        "last_level_cache_bytes": device.last_level_cache_bytes,
        "driver": host.driver,
        "power_limit_w": device.power_limit_w,
        "torch": host.libraries.get("torch"),
        "measured_by": hashlib.sha256(_MEASURING_SOURCE.read_bytes()).hexdigest()[:12],
    }
    if device.kind == "cpu":
        facts["num_threads"] = host.num_threads
        facts["affinity"] = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        facts["quota"] = describe_limits().get("cpu_quota_cores")
        cpu = describe_cpu()
        facts["clocks"] = {key: cpu.get(key) for key in ("governor", "frequency_limit_mhz", "turbo")}
    return facts


@dataclass(frozen=True)
class _KeptRoofs:
    roofs: Roofs
    measured_at: datetime


class _RoofsFile:
    """Roofs in a file of the folder, with the fingerprint that they belong to."""

    def __init__(self, folder: Path, fingerprint: dict[str, Any]) -> None:
        self._path = folder / f"{short_hash(fingerprint)}.json"
        self._fingerprint = fingerprint

    def read(self) -> _KeptRoofs | None:
        """Return what is kept; None where nothing is, or it is old, foreign or damaged."""
        try:
            values = json.loads(self._path.read_text())
            measured_at = datetime.fromisoformat(values["measured_at"])
            is_recent = timedelta(0) <= datetime.now(UTC) - measured_at <= MAX_AGE
            if values["fingerprint"] != self._fingerprint or not is_recent:
                return None
            return _KeptRoofs(Roofs.from_dict(values["roofs"]), measured_at)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, kept: _KeptRoofs) -> None:
        """Replace the file in one step. Where that cannot be done, the next run measures again.

        So it does where neighbours disturbed the measuring.
        """
        if kept.roofs.is_disturbed:
            return
        values = {
            "measured_at": kept.measured_at.isoformat(),
            "fingerprint": self._fingerprint,
            "roofs": kept.roofs.to_dict(),
        }
        own = self._path.with_suffix(f".{secrets.token_hex(4)}.tmp")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            own.write_text(json.dumps(values, indent=1) + "\n")
            own.replace(self._path)
