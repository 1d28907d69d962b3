"""A profiler that reports the simulated device's kernels beside what PyTorch's own reports of the CPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch.profiler import ProfilerActivity
from torch.profiler import profile as real_profile

from simulated_gpu.device import DEVICE


class profile:  # noqa: N801  the name that it stands in for
    """`torch.profiler.profile`, as far as the harness reads its raw events."""

    def __init__(self, *, activities: list[ProfilerActivity], **options: Any) -> None:
        self._has_device = ProfilerActivity.CUDA in activities
        others = [activity for activity in activities if activity is not ProfilerActivity.CUDA]
        self._real = real_profile(activities=others, **options) if others else None

    def __enter__(self) -> profile:
        if self._has_device:
            DEVICE.kernels, DEVICE.is_profiled = [], True
        if self._real is not None:
            self._real.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        DEVICE.is_profiled = False
        if self._real is not None:
            self._real.__exit__(*error)
        events = list(self._real.profiler.kineto_results.events()) if self._real is not None else []
        events += DEVICE.kernels if self._has_device else []
        self.profiler = SimpleNamespace(kineto_results=SimpleNamespace(events=lambda: events))
