"""The measured ceilings of a device, kept from run to run, and what they say of a problem. No torch here."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gqabench.attention_impls.cache_folder import user_cache_folder
from gqabench.harness.hashes import short_hash
from gqabench.harness.machine.cpu import describe_cpu
from gqabench.harness.machine.limits import describe_limits
from gqabench.harness.machine.source import SOURCE_ROOT
from gqabench.harness.workers.process import WorkerProcess

READ_ROOF = "read_gb_per_s"
COPY_ROOF = "copy_gb_per_s"
MATMUL_ROOF = "matmul_tflop_per_s"

MAX_AGE = timedelta(days=7)
"""Drivers, microcode and neighbours change; what is older is measured again."""

_LEAST_SPREAD = 0.05
"""What two measurements of a roof may differ by, however well each repeats itself: 3.5 % were seen within ten
minutes on two cores of a virtual machine."""
_LEAST_CPU_SHARE = 0.85
"""Quiet cores give their threads 0.99 of the time, two cores with one busy neighbour 0.75."""
_MEASURING_SOURCE = SOURCE_ROOT / "harness" / "worker" / "timing" / "roofs.py"
_TIMEOUT_S = 120.0

Measure = Callable[[], Mapping[str, Any]]
"""Gives what `gqabench.harness.worker.timing.roofs.measure_roofs` returns."""


@dataclass(frozen=True)
class Roof:
    """One measured ceiling."""

    best: float
    """GB/s or TFLOP/s of the best repetition of the best way."""
    median: float
    """Of the median repetition of that way."""
    spread: float
    """By what share the best repetition beats the one that a tenth of them reach."""
    num_repetitions: int
    method: str

    def __post_init__(self) -> None:
        if not (0 < self.median <= self.best < math.inf and self.spread >= 0):
            raise ValueError(f"not a roof: {self}")

    def is_beaten_by(self, achieved: float) -> bool:
        """Whether a rate is above the roof by more than the roof repeats itself."""
        return achieved > self.best * (1 + max(self.spread, _LEAST_SPREAD))


@dataclass(frozen=True)
class Roofs:
    """The ceilings of one device. A problem cannot be faster than its bytes and its operations allow."""

    read: Roof
    copy: Roof
    matmul: Mapping[str, Roof]
    """By dtype."""
    cpu_share: float | None = None
    """How much of the time that a CPU's threads could have run meanwhile they did; None on a GPU."""

    @property
    def is_disturbed(self) -> bool:
        """Whether neighbours took so much of the cores that the roofs may be far too low."""
        return self.cpu_share is not None and self.cpu_share < _LEAST_CPU_SHARE

    def bound_of(self, model_bytes: int, model_flops: int, dtype: str) -> str | None:
        """`read_gb_per_s` or `matmul_tflop_per_s`: the ceiling that a problem meets first.

        None where the roof of the dtype was not measured. The reading wins a tie.
        """
        times_ms = self._times_ms(model_bytes, model_flops, dtype)
        return None if times_ms is None else max(times_ms, key=lambda name: times_ms[name])

    def fraction(self, latency_ms: float, model_bytes: int, model_flops: int, dtype: str) -> float | None:
        """The share of its roof that a latency achieves: the least time that the roofs allow, over it."""
        times_ms = self._times_ms(model_bytes, model_flops, dtype)
        return None if times_ms is None else max(times_ms.values()) / latency_ms

    def is_beaten_by(self, achieved_gb_per_s: float) -> bool:
        """Whether bytes came faster than the roof: some came from a cache, or the roof is too low.

        False for problems that compute bounds, whose bytes come slower than the roof.
        """
        return self.read.is_beaten_by(achieved_gb_per_s)

    def is_warm_suspect(self, achieved_gb_per_s: float) -> bool:
        """Whether bytes came faster than memory can deliver them. Disturbed roofs suspect nobody."""
        return self.is_beaten_by(achieved_gb_per_s) and not self.is_disturbed

    def record_fields(
        self, latency_ms: float, model_bytes: int, model_flops: int, dtype: str
    ) -> dict[str, Any]:
        """The record's `roof` and `roof_fraction`."""
        return {
            "roof": self.bound_of(model_bytes, model_flops, dtype),
            "roof_fraction": self.fraction(latency_ms, model_bytes, model_flops, dtype),
        }

    def higher_of(self, other: Roofs) -> Roofs:
        """The higher of each pair of roofs: of two measurements of a ceiling, the lower one was disturbed."""
        pairs = {
            dtype: [roofs.matmul[dtype] for roofs in (self, other) if dtype in roofs.matmul]
            for dtype in dict.fromkeys([*self.matmul, *other.matmul])
        }
        return Roofs(
            read=_higher(self.read, other.read),
            copy=_higher(self.copy, other.copy),
            matmul={dtype: _higher(*pair) for dtype, pair in pairs.items()},
            cpu_share=max((roofs.cpu_share for roofs in (self, other) if roofs.cpu_share), default=None),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in the shape in which a worker measures them."""
        return {
            READ_ROOF: asdict(self.read),
            COPY_ROOF: asdict(self.copy),
            MATMUL_ROOF: {dtype: asdict(roof) for dtype, roof in self.matmul.items()},
            "cpu_share": self.cpu_share,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Roofs:
        """The inverse of `to_dict`; other keys are left alone. Raises `ValueError` for anything else."""
        try:
            return cls(
                read=Roof(**values[READ_ROOF]),
                copy=Roof(**values[COPY_ROOF]),
                matmul={dtype: Roof(**roof) for dtype, roof in values[MATMUL_ROOF].items()},
                cpu_share=values.get("cpu_share"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not roofs: {error}") from error

    def _times_ms(self, model_bytes: int, model_flops: int, dtype: str) -> dict[str, float] | None:
        """The least time by each roof that bounds a problem, in milliseconds."""
        if dtype not in self.matmul:
            return None
        return {
            READ_ROOF: model_bytes / self.read.best / 1e6,
            MATMUL_ROOF: model_flops / self.matmul[dtype].best / 1e9,
        }


def _higher(*roofs: Roof) -> Roof:
    return max(roofs, key=lambda roof: roof.best)


def roofs_for(
    device_entry: Mapping[str, Any], host: Mapping[str, Any], measure: Measure, folder: Path | None = None
) -> Roofs:
    """The device's roofs: those kept in the folder if they are of this machine and recent, else measured.

    Disturbed ones are returned, but not kept.
    `device_entry` is one of the devices of `host`, a worker's description of itself.
    """
    file = _RoofsFile(folder or user_cache_folder() / "roofs", fingerprint(device_entry, host))
    kept = file.read()
    if kept is not None and kept.roofs.matmul.keys() >= set(device_entry["dtypes"]):
        return kept.roofs
    roofs = Roofs.from_dict(measure())
    file.write(_KeptRoofs(roofs, datetime.now(UTC)))
    return roofs


def measure_roofs_again(
    device_entry: Mapping[str, Any], host: Mapping[str, Any], measure: Measure, folder: Path | None = None
) -> Roofs:
    """Measure whatever is kept, keep the higher of both, and return it: for when a row beat the roofs.

    What is kept grows no younger by it, so that a roof which nothing reaches any more expires.
    """
    file = _RoofsFile(folder or user_cache_folder() / "roofs", fingerprint(device_entry, host))
    roofs, measured_at = Roofs.from_dict(measure()), datetime.now(UTC)
    if (kept := file.read()) is not None:
        roofs, measured_at = roofs.higher_of(kept.roofs), kept.measured_at
    file.write(_KeptRoofs(roofs, measured_at))
    return roofs


def ask_for_roofs(worker: WorkerProcess, device_entry: Mapping[str, Any]) -> dict[str, Any]:
    """Have a worker measure. Raises `WorkerFailed` or `RequestFailed`."""
    return worker.request(
        "measure_roofs", _TIMEOUT_S, device=device_entry["device"], dtypes=device_entry["dtypes"]
    )


def fingerprint(device_entry: Mapping[str, Any], host: Mapping[str, Any]) -> dict[str, Any]:
    """All that changes what a device's roofs measure as, the code that measures included."""
    facts = {
        "machine": platform.node(),
        "name": device_entry["name"],
        "uuid": device_entry["uuid"],
        "last_level_cache_bytes": device_entry.get("last_level_cache_bytes"),
        "driver": device_entry.get("driver") or host.get("driver"),
        "power_limit_w": device_entry.get("power_limit_w"),
        "torch": host["libraries"].get("torch"),
        "measured_by": hashlib.sha256(_MEASURING_SOURCE.read_bytes()).hexdigest()[:12],
    }
    if device_entry["device"] == "cpu":
        facts["num_threads"] = host.get("num_threads")
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
        """None where there are none, or old, foreign or damaged ones."""
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
