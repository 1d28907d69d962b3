"""A profiler that reports the simulated device's kernels beside what PyTorch's own reports of the CPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch.autograd.profiler import profile as autograd_profile
from torch.profiler import ProfilerActivity

from simulated_gpu.device import DEVICE


class profile:  # noqa: N801  the name that it stands in for
    """`torch.profiler.profile`, as far as the harness reads its raw events."""

    def __init__(self, *, activities: list[ProfilerActivity], **options: Any) -> None:
        self._has_device = ProfilerActivity.CUDA in activities
        has_cpu = ProfilerActivity.CPU in activities
        self._of_cpu = autograd_profile(use_kineto=True, **options) if has_cpu else None

    def __enter__(self) -> profile:
        if self._has_device:
            DEVICE.kernels, DEVICE.is_profiled = [], True
        if self._of_cpu is not None:
            self._of_cpu.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        DEVICE.is_profiled = False
        events: list[Any] = []
        if self._of_cpu is not None:
            self._of_cpu.__exit__(*error)
            events = list(self._of_cpu.kineto_results.events())
        events += DEVICE.kernels if self._has_device else []
        self.profiler = SimpleNamespace(kineto_results=SimpleNamespace(events=lambda: events))
