"""The measured ceilings of a device, and what they say of a problem. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gqabench.harness.plain_values import from_plain

READ_ROOF = "read_gb_per_s"
COPY_ROOF = "copy_gb_per_s"
MATMUL_ROOF = "matmul_tflop_per_s"

_LEAST_SPREAD = 0.05
"""What two measurements of a roof may differ by, however well each repeats itself: 3.5 % were seen within ten
minutes on two cores of a virtual machine."""
_LEAST_CPU_SHARE = 0.85
"""Quiet cores give their threads 0.99 of the time, two cores with one busy neighbour 0.75."""


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
        """Return whether a rate is above the roof by more than measurements of the roof differ."""
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
        """Return the ceiling that a problem meets first: `read_gb_per_s` or `matmul_tflop_per_s`.

        None where the roof of the dtype was not measured. The reading wins a tie.
        """
        times_ms = self._times_ms(model_bytes, model_flops, dtype)
        return None if times_ms is None else max(times_ms, key=lambda name: times_ms[name])

    def fraction(self, latency_ms: float, model_bytes: int, model_flops: int, dtype: str) -> float | None:
        """Return the share of its roof that a latency achieves: the least time over the latency."""
        times_ms = self._times_ms(model_bytes, model_flops, dtype)
        return None if times_ms is None else max(times_ms.values()) / latency_ms

    def is_beaten_by(self, achieved_gb_per_s: float) -> bool:
        """Return whether bytes came faster than the roof: some came from a cache, or the roof is too low.

        False for problems that compute bounds, whose bytes come slower than the roof.
        """
        return self.read.is_beaten_by(achieved_gb_per_s)

    def is_warm_suspect(self, achieved_gb_per_s: float) -> bool:
        """Return whether bytes came faster than memory can deliver them. Disturbed roofs suspect nobody."""
        return self.is_beaten_by(achieved_gb_per_s) and not self.is_disturbed

    def record_fields(
        self, latency_ms: float, model_bytes: int, model_flops: int, dtype: str
    ) -> dict[str, Any]:
        """Return the record's `roof` and `roof_fraction`."""
        return {
            "roof": self.bound_of(model_bytes, model_flops, dtype),
            "roof_fraction": self.fraction(latency_ms, model_bytes, model_flops, dtype),
        }

    def higher_of(self, other: Roofs) -> Roofs:
        """Return the higher of each pair of roofs: of two measurements, the lower one was disturbed."""
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
        """Return plain values: those of a worker's reply to `measure_roofs`, and of a run's header."""
        return {
            READ_ROOF: asdict(self.read),
            COPY_ROOF: asdict(self.copy),
            MATMUL_ROOF: {dtype: asdict(roof) for dtype, roof in self.matmul.items()},
            "cpu_share": self.cpu_share,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Roofs:
        """Build from what `to_dict` returned; unknown keys are ignored. Raises `ValueError`."""
        try:
            return cls(
                read=from_plain(Roof, values[READ_ROOF]),
                copy=from_plain(Roof, values[COPY_ROOF]),
                matmul={dtype: from_plain(Roof, roof) for dtype, roof in values[MATMUL_ROOF].items()},
                cpu_share=values.get("cpu_share"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not roofs: {error}") from error

    def _times_ms(self, model_bytes: int, model_flops: int, dtype: str) -> dict[str, float] | None:
        """Return the least time by each roof that bounds a problem, in milliseconds."""
        if dtype not in self.matmul:
            return None
        return {
            READ_ROOF: model_bytes / self.read.best / 1e6,
            MATMUL_ROOF: model_flops / self.matmul[dtype].best / 1e9,
        }


def _higher(*roofs: Roof) -> Roof:
    return max(roofs, key=lambda roof: roof.best)
