"""How calls are timed: one method per kind of device."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch

from gqabench.harness.worker.timing.cache_flush import CacheFlush

Call = Callable[[], object]


class Clock(ABC):
    """Times calls one by one."""

    method: ClassVar[str]
    """Name of the method, kept in the record: one for all rows of a table."""

    def __init__(self, device: str) -> None:
        self.flush = CacheFlush(device)
        """Evicts the inputs of a call from the last-level cache."""

        self.flush_buffer = self.flush.buffer
        """What it reads for that."""

        self.num_exposed = 0
        """Timed calls so far during which the device waited for the host to launch."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it."""

    @abstractmethod
    def time_calls(self, call: Call, num_calls: int, before_each: Callable[[], None]) -> list[float]:
        """Return the milliseconds of each call. `before_each` runs outside the timed part."""


class CpuClock(Clock):
    """The monotonic clock around each call."""

    method = "perf_counter"

    def synchronize(self) -> None:
        """Do nothing: a CPU call has ended when it returns."""

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
    """Events around each call on the current stream, with the launches queued behind a sleeping kernel.

    The kernel sleeps for twice as long as the host took to queue the same call the last time. What it cannot
    hide (a call that waits for the device itself) is counted in `num_exposed`.
    """

    method = "cuda_events"

    _SHORTEST_SLEEP_CYCLES = 200_000
    """About 0.1 ms."""
    _LONGEST_SLEEP_CYCLES = 4_000_000
    _SLEEP_CYCLES_PER_NS = 2 * 2.0
    """Twice the time, at some 2 GHz: a slower clock only sleeps longer."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self._device = torch.device(device)
        self._host_ns: dict[int, int] = {}
        """How long the host took to queue a call the last time, by the call's `id`."""

    def synchronize(self) -> None:
        torch.cuda.synchronize(self._device)

    def time_calls(self, call: Call, num_calls: int, before_each: Callable[[], None]) -> list[float]:
        pairs = []
        with torch.cuda.device(self._device):
            for _ in range(num_calls):
                before_each()
                started = torch.cuda.Event(enable_timing=True)
                ended = torch.cuda.Event(enable_timing=True)
                torch.cuda._sleep(self._sleep_cycles(call))
                queued_ns = time.perf_counter_ns()
                started.record()
                call()
                ended.record()
                self._host_ns[id(call)] = time.perf_counter_ns() - queued_ns
                self.num_exposed += (
                    started.query()
                )  # the device was through with sleeping before we were done
                pairs.append((started, ended))
        self.synchronize()
        return [started.elapsed_time(ended) for started, ended in pairs]

    def _sleep_cycles(self, call: Call) -> int:
        wanted = int(self._SLEEP_CYCLES_PER_NS * self._host_ns.get(id(call), 0))
        return max(self._SHORTEST_SLEEP_CYCLES, min(wanted, self._LONGEST_SLEEP_CYCLES))


def make_clock(device: str) -> Clock:
    """Make the clock of a device (`cpu`, `cuda`, `cuda:N`)."""
    return CpuClock(device) if device == "cpu" else CudaClock(device)
