"""Energy of a call, from a counter of joules that moves in steps: how to read it, and over how long."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from gqabench.harness.machine.nvml import Nvml
from gqabench.harness.machine.rapl import RaplEnergyMeter
from gqabench.results.statistics.samples import median

Clock = Callable[[], float]
Sleep = Callable[[float], None]

RunFor = Callable[[float], tuple[int, float]]
"""Has the worker make calls for so many seconds; returns how many, and the seconds that they took."""

MIN_WINDOW_S = 2.0
_PERIODS_PER_WINDOW = 20
"""Not for resolution, as both ends lie on a step of the counter: some GPUs look at their power for only part
of each period (arXiv 2312.02741), which many periods average out."""

_POLL_S = 0.001
_LONGEST_STEP_S = 1.0
"""A counter that does not move for so long stands still. NVML's move about every 0.1 s, RAPL's every 1 ms."""
_NUM_STEPS = 10


class EnergyMeter(Protocol):
    """A counter of joules."""

    @property
    def source(self) -> str:
        """`nvml` or `rapl`."""
        ...

    def read_j(self) -> float | None:
        """Return the energy in joules since some fixed moment; None if it cannot be read."""
        ...


class NvmlEnergyMeter:
    """The energy of a GPU's board."""

    source = "nvml"

    def __init__(self, nvml: Nvml, uuid: str) -> None:
        self._nvml = nvml
        self._uuid = uuid

    def read_j(self) -> float | None:
        return self._nvml.energy_j(self._uuid)


def open_energy_meter(nvml: Nvml, uuid: str | None) -> EnergyMeter | None:
    """Open the meter of a GPU, or of the CPU where `uuid` is None; None where no counter can be read.

    A MIG slice has none: its board's counts what other slices do.
    """
    if uuid is None:
        return RaplEnergyMeter.open()
    if uuid.startswith("MIG-"):
        return None
    meter = NvmlEnergyMeter(nvml, uuid)
    return None if meter.read_j() is None else meter


@dataclass(frozen=True)
class Energy:
    """What was measured of one arm. Without `j_per_call`, `reason` says why."""

    source: str
    j_per_call: float | None = None
    j_per_token: float | None = None
    idle_power_w: float | None = None
    """What was subtracted."""
    window_s: float | None = None
    """Between the two readings of the counter."""
    num_calls: int | None = None
    reason: str | None = None

    def record_fields(self) -> dict[str, Any]:
        """Return fields of a record."""
        return {
            "energy_j_per_call": self.j_per_call,
            "energy_j_per_token": self.j_per_token,
            "idle_power_w": self.idle_power_w,
            "energy_source": self.source,
            "energy_window_s": self.window_s,
            "energy_reason": self.reason,
        }


def infer_period_s(
    meter: EnergyMeter, *, clock: Clock = time.monotonic, sleep: Sleep = time.sleep, longest_s: float = 2.0
) -> float | None:
    """Infer how often the counter steps: the median distance of ten steps, or of those within `longest_s`.

    None when there were fewer than two. A counter that steps faster than it is looked at (every
    millisecond) gives the distance of the looks.
    """
    step_times: list[float] = []
    ends_at = clock() + longest_s
    try:
        while len(step_times) <= _NUM_STEPS:
            step_times.append(_next_step(meter, clock, sleep, ends_at).at_s)
    except _NoStep:
        pass
    distances = [after - before for before, after in pairwise(step_times)]
    return median(distances) if distances else None


def measure_idle_power_w(
    meter: EnergyMeter, seconds: float, *, clock: Clock = time.monotonic, sleep: Sleep = time.sleep
) -> float | None:
    """Measure the mean power over about `seconds` while the caller keeps the device idle; None if unknown."""
    try:
        first = _next_step(meter, clock, sleep)
        sleep(seconds)
        last = _next_step(meter, clock, sleep)
    except _NoStep:
        return None
    return (last.energy_j - first.energy_j) / (last.at_s - first.at_s)


def window_s(period_s: float) -> float:
    """Return how long to have the worker call, for a counter that steps every `period_s`."""
    return max(MIN_WINDOW_S, _PERIODS_PER_WINDOW * period_s)


def measure_energy(
    meter: EnergyMeter,
    run_for: RunFor,
    idle_power_w: float | None,
    period_s: float | None,
    num_tokens: int,
    *,
    clock: Clock = time.monotonic,
    sleep: Sleep = time.sleep,
) -> Energy:
    """Measure the energy of a call, and of each of its `num_tokens` new tokens, less what idling draws.

    The counter is read just after a step, before the calls and again after them. A reading in between two
    steps would miss up to a period of full power. What the device draws between the last call and the step
    after it counts as idle.
    """
    if period_s is None:
        return Energy(meter.source, idle_power_w=idle_power_w, reason="the counter does not move")
    if idle_power_w is None:
        return Energy(meter.source, reason="the idle power is unknown")
    try:
        first = _next_step(meter, clock, sleep)
        num_calls, _ = run_for(window_s(period_s))
        last = _next_step(meter, clock, sleep)
    except _NoStep as failure:
        return Energy(meter.source, idle_power_w=idle_power_w, reason=str(failure))
    elapsed_s = last.at_s - first.at_s
    net_j = last.energy_j - first.energy_j - idle_power_w * elapsed_s
    if num_calls < 1:
        reason = "no call was made"
    elif net_j <= 0:
        reason = f"{num_calls} calls drew no more than the idle device: {net_j:.3g} J in {elapsed_s:.3g} s"
    else:
        return Energy(
            meter.source,
            j_per_call=net_j / num_calls,
            j_per_token=net_j / num_calls / num_tokens,
            idle_power_w=idle_power_w,
            window_s=elapsed_s,
            num_calls=num_calls,
        )
    return Energy(
        meter.source, idle_power_w=idle_power_w, window_s=elapsed_s, num_calls=num_calls, reason=reason
    )


class _NoStep(Exception):
    """The counter did not step; the message says whether it stands still or is gone."""


@dataclass(frozen=True)
class _Reading:
    energy_j: float
    at_s: float


def _next_step(meter: EnergyMeter, clock: Clock, sleep: Sleep, ends_at: float | None = None) -> _Reading:
    """Wait until the counter moves. Raises `_NoStep` where it has not by `ends_at`."""
    if ends_at is None:
        ends_at = clock() + _LONGEST_STEP_S
    before_j = _read(meter)
    while clock() < ends_at:
        sleep(_POLL_S)
        now_j = _read(meter)
        if now_j != before_j:
            return _Reading(now_j, clock())
    raise _NoStep("the counter does not move")


def _read(meter: EnergyMeter) -> float:
    energy_j = meter.read_j()
    if energy_j is None:
        raise _NoStep("the counter can no longer be read")
    return energy_j
