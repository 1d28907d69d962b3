"""How calls are timed: one method per kind of device."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch

from harness.worker.cache_flush import CacheFlush

Call = Callable[[], object]


class Clock(ABC):
    """Times calls one by one."""

    method: ClassVar[str]
    """Name of the method, kept in the record: one for all rows of a table."""

    def __init__(self, device: str) -> None:
        self.flush = CacheFlush(device)
        """Evicts the inputs of a call from the last-level cache."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it."""

    @abstractmethod
    def time_calls(self, call: Call, num_calls: int, before_each: Callable[[], None]) -> list[float]:
        """Milliseconds of each call. `before_each` runs outside the timed part."""


class CpuClock(Clock):
    """The monotonic clock around each call."""

    method = "perf_counter"

    def synchronize(self) -> None:
        """A CPU call has ended when it returns."""

    def time_calls(self, call: Call, num_calls: int, before_each: Callable[[], None]) -> list[float]:
        samples_ms = []
        for _ in range(num_calls):
            before_each()
            started = time.perf_counter_ns()
            output = call()
            samples_ms.append((time.perf_counter_ns() - started) / 1e6)
            del output  # freed outside the timed part, as a caller frees it later
        return samples_ms


class CudaClock(Clock):
    """Events around each call on the current stream, with the launches queued behind a sleeping kernel."""

    method = "cuda_events"

    _SLEEP_CYCLES = 400_000
    """About 0.2 ms: longer than the host needs to queue the flush, the event and the first launch."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self._device = torch.device(device)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self._device)

    def time_calls(self, call: Call, num_calls: int, before_each: Callable[[], None]) -> list[float]:
        pairs = []
        with torch.cuda.device(self._device):
            for _ in range(num_calls):
                before_each()
                started = torch.cuda.Event(enable_timing=True)
                ended = torch.cuda.Event(enable_timing=True)
                torch.cuda._sleep(self._SLEEP_CYCLES)
                started.record()
                call()
                ended.record()
                pairs.append((started, ended))
        self.synchronize()
        return [started.elapsed_time(ended) for started, ended in pairs]


def make_clock(device: str) -> Clock:
    """The clock of a device (`cpu`, `cuda`, `cuda:N`)."""
    return CpuClock(device) if device == "cpu" else CudaClock(device)
