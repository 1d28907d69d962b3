"""Arms of a case are measured in rounds, each in a fresh seeded order, so that drift hits all alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.case import Arm, MeasureSettings
from results.derive import is_narrow

MeasureArm = Callable[[Arm, int], list[float]]
"""Times a number of calls of an arm; returns milliseconds of each."""

_WARM_UP_CALLS = 2
_MAX_CALLS_PER_SLICE = 100
_MAX_SAMPLES_PER_ARM = 2000


@dataclass
class ArmSamples:
    """What was timed of one arm."""

    samples_ms: list[float] = field(default_factory=list)
    calls_per_slice: int = 1
    is_narrow: bool = False


def measure_in_rounds(
    arms: Sequence[Arm], settings: MeasureSettings, seed: int, measure: MeasureArm
) -> dict[Arm, ArmSamples]:
    """Measure until the interval of every arm's median is narrow, or the time budget is spent.

    The first round warms up and tells how many calls fill a slice; its samples are not kept.
    """
    order = random.Random(seed)
    measured = {arm: ArmSamples() for arm in arms}
    for arm in order.sample(list(arms), len(arms)):
        started = time.monotonic()
        measure(arm, _WARM_UP_CALLS)
        call_ms = (time.monotonic() - started) * 1e3 / _WARM_UP_CALLS
        measured[arm].calls_per_slice = calls_per_slice(call_ms, settings.slice_ms)
    deadline = time.monotonic() + settings.seconds_per_arm * len(arms)
    num_rounds = 0
    while not _is_done(measured, settings, num_rounds, is_late=time.monotonic() >= deadline):
        for arm in order.sample(list(arms), len(arms)):
            measured[arm].samples_ms.extend(measure(arm, measured[arm].calls_per_slice))
        num_rounds += 1
    for result in measured.values():
        result.is_narrow = is_narrow(result.samples_ms, settings.target_interval)
    return measured


def _is_done(
    measured: dict[Arm, ArmSamples], settings: MeasureSettings, num_rounds: int, *, is_late: bool
) -> bool:
    if num_rounds < settings.min_rounds:
        return False
    if is_late or max(len(result.samples_ms) for result in measured.values()) >= _MAX_SAMPLES_PER_ARM:
        return True
    return all(is_narrow(result.samples_ms, settings.target_interval) for result in measured.values())


def calls_per_slice(call_ms: float, slice_ms: float) -> int:
    """Calls that take about `slice_ms` together, flushing included: at least one."""
    return max(1, min(_MAX_CALLS_PER_SLICE, round(slice_ms / max(call_ms, 1e-6))))
