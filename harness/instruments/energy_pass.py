"""The pass that measures energy. Meters, their periods and the idle power are found before the first case."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gqabench.harness.instruments.energy import (
    Clock,
    EnergyMeter,
    RunFor,
    Sleep,
    infer_period_s,
    measure_energy,
    measure_idle_power_w,
    open_energy_meter,
)
from gqabench.harness.machine.nvml import Nvml

IDLE_SECONDS = 2.0
"""For how long the idle device is watched: twenty steps of NVML's counter."""

NO_CPU_COUNTER = "no RAPL counter of this CPU can be read"
NO_GPU_COUNTER = "NVML reports no total energy for this device"
NO_SLICE_COUNTER = "a MIG slice has no energy counter of its own"

OpenMeter = Callable[[Nvml, str | None], EnergyMeter | None]


@dataclass(frozen=True)
class _MeteredDevice:
    meter: EnergyMeter
    period_s: float | None
    idle_power_w: float | None


@dataclass
class EnergyPass:
    """Energy of calls on any device of this machine. `devices` are named by UUID; None is the CPU."""

    nvml: Nvml
    open_meter: OpenMeter = open_energy_meter
    clock: Clock = time.monotonic
    sleep: Sleep = time.sleep
    _devices: dict[str | None, _MeteredDevice | None] = field(default_factory=dict)

    def get_ready(self, uuid: str | None) -> None:
        """Find the device's meter, and measure its idle power while the caller keeps it idle; once a device.

        A worker that already has a context on it should be there: what that draws is not a call's.
        """
        if uuid in self._devices:
            return
        meter = self.open_meter(self.nvml, uuid)
        if meter is None:
            self._devices[uuid] = None
            return
        period_s = infer_period_s(meter, clock=self.clock, sleep=self.sleep)
        idle_power_w = measure_idle_power_w(meter, IDLE_SECONDS, clock=self.clock, sleep=self.sleep)
        self._devices[uuid] = _MeteredDevice(meter, period_s, idle_power_w)

    def record_fields(self, uuid: str | None, run_for: RunFor, num_tokens: int) -> dict[str, Any]:
        """Return the record's energy of a call with `num_tokens` new tokens, or why there is none."""
        device = self._devices.get(uuid)
        if device is None:
            return {"energy_reason": _why_none(uuid)}
        energy = measure_energy(
            device.meter,
            run_for,
            device.idle_power_w,
            device.period_s,
            num_tokens,
            clock=self.clock,
            sleep=self.sleep,
        )
        return energy.record_fields()


def _why_none(uuid: str | None) -> str:
    if uuid is None:
        return NO_CPU_COUNTER
    return NO_SLICE_COUNTER if uuid.startswith("MIG-") else NO_GPU_COUNTER
