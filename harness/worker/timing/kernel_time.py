"""Time that the kernels of a call take by themselves, from CUPTI: a check on what events and graphs tell.

CUPTI stamps each kernel's start and end on the device. It is asked by NVIDIA's bindings (`cupti-python`)
where they are installed, and by PyTorch's profiler otherwise. Gaps between kernels do not count.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Call = Callable[[], object]

_NUM_CALLS = 5
_BUFFER_BYTES = 8 * 2**20


@dataclass(frozen=True)
class KernelTime:
    """Time that the kernels of a call take."""

    ms: float | None
    """Median over some calls of the sum of their kernels' times; None where no kernel was seen"""
    source: str
    """`cupti` or `torch.profiler`"""


def measure_kernel_time(call: Call, before_each: Call, device: torch.device) -> KernelTime:
    """Time the kernels of some calls."""
    if find_spec("cupti") is not None:
        try:
            kernel_ms = _median_ms(_by_cupti, call, before_each, device)
            if kernel_ms is not None:  # none was told of, where a profiler of this process has the records
                return KernelTime(kernel_ms, "cupti")
        except Exception as error:  # noqa: BLE001  CUPTI serves one client: a debugger or profiler may hold it
            print(f"no kernel times by cupti-python: {type(error).__name__}: {error}", file=sys.stderr)
    return KernelTime(_median_ms(_by_profiler, call, before_each, device), "torch.profiler")


def _median_ms(
    kernels_ns: Callable[[Call, torch.device], int], call: Call, before_each: Call, device: torch.device
) -> float | None:
    """Return the median in milliseconds; None if no kernel was seen."""
    times = []
    for _ in range(_NUM_CALLS):
        before_each()
        torch.cuda.synchronize(device)
        times.append(kernels_ns(call, device) / 1e6)
    return median(times) or None


def _by_cupti(call: Call, device: torch.device) -> int:
    """Return the nanoseconds of all kernels, copies and fills of one call."""
    cupti = import_module("cupti.cupti")
    kinds = [getattr(cupti.ActivityKind, name) for name in ("CONCURRENT_KERNEL", "MEMCPY", "MEMSET")]
    times_ns: list[int] = []

    def buffer_requested() -> tuple[int, int]:
        return _BUFFER_BYTES, 0

    def buffer_completed(activities: list[Any]) -> None:
        times_ns.extend(int(one.end) - int(one.start) for one in activities if one.kind in kinds)

    cupti.activity_register_callbacks(buffer_requested, buffer_completed)
    for kind in kinds:
        cupti.activity_enable(kind)
    try:
        call()
        torch.cuda.synchronize(device)
        cupti.activity_flush_all(1)
    finally:
        for kind in kinds:
            cupti.activity_disable(kind)
    return sum(times_ns)


def _by_profiler(call: Call, device: torch.device) -> int:
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize(device)
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    return sum(
        event.duration_ns()
        for event in profiler.profiler.kineto_results.events()
        if event.device_type() == torch.profiler.DeviceType.CUDA
    )
