"""The simulated device: its memory, its clock, and the graph that is being captured."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

MEMORY_BYTES = 2**29
L2_BYTES = 2**20
ROUNDING_BYTES = 512
"""The caching allocator hands out multiples of so many bytes."""
CYCLES_PER_NS = 2.0

NOT_WHILE_CAPTURING = "CUDA error: operation not permitted when stream is capturing"
LOST = "CUDA error: device-side assert triggered"


@dataclass
class Kernel:
    """Something that ran, as the profiler reports it."""

    operator: str
    started_ns: int
    ran_ns: int

    def name(self) -> str:
        return f"simulated_{self.operator}"

    def start_ns(self) -> int:
        return self.started_ns

    def duration_ns(self) -> int:
        return self.ran_ns

    def nbytes(self) -> int:
        return 0

    def is_user_annotation(self) -> bool:
        return False

    def device_type(self) -> torch.profiler.DeviceType:
        return torch.profiler.DeviceType.CUDA


@dataclass
class Counted:
    """Bytes now, and the most since the count of the peak was begun."""

    current: int = 0
    peak: int = 0

    def add(self, num_bytes: int) -> None:
        self.current += num_bytes
        self.peak = max(self.peak, self.current)

    def begin_peak(self) -> None:
        self.peak = self.current


@dataclass(eq=False)
class Capture:
    """What a graph replays, in order."""

    pool: tuple[int, int]
    nodes: list[Callable[[], None]] = field(default_factory=list)
    storages: dict[int, int] = field(default_factory=dict)
    """Bytes of the pool, by the address of a storage"""
    fresh: list[torch.Tensor] = field(default_factory=list)
    """What captured work returned; some of it may be views of older tensors"""
    is_broken: bool = False

    def spoil(self) -> None:
        """Nothing that is captured has happened: its outputs hold NaN until a replay computes them."""
        for tensor in self.fresh:
            if tensor.untyped_storage()._cdata in self.storages and tensor.is_floating_point():
                with torch.inference_mode():
                    tensor.fill_(torch.nan)


class Device:
    """One GPU. Work takes as long as the CPU takes for it, behind what was asked for before."""

    def __init__(self) -> None:
        self.busy_until_ns = 0
        self.allocated = Counted()
        self.requested = Counted()
        """The same without rounding"""
        self.capture: Capture | None = None
        self.captures: weakref.WeakSet[Capture] = weakref.WeakSet()
        self.is_lost = False
        self.is_spoilt = False
        """Since a capture broke: what PyTorch remembers of it would disturb whatever comes next"""
        self.is_profiled = False
        self.kernels: list[Kernel] = []
        self._storages: set[int] = set()

    def reached_ns(self) -> int:
        """When all that was asked so far is done."""
        return max(self.busy_until_ns, time.perf_counter_ns())

    def run(self, operator: str, work: Callable[[], Any], is_work: Callable[[Any], bool]) -> Any:
        """Do something. Its result tells whether it was work: a view is none.

        An index beyond the end loses the device: nothing can be done from then on.
        """
        self._require_context()
        asked_ns = time.perf_counter_ns()
        try:
            result = work()
        except IndexError:
            self.is_lost = True
            self._require_context()
        if is_work(result):
            started_ns = max(self.busy_until_ns, asked_ns)
            ran_ns = time.perf_counter_ns() - asked_ns
            self.busy_until_ns = started_ns + ran_ns
            if self.is_profiled:
                self.kernels.append(Kernel(operator, started_ns, ran_ns))
        return result

    def sleep(self, cycles: int) -> None:
        """What `torch.cuda._sleep` launches."""
        if self.capture is not None:
            self.capture.nodes.append(partial(self._sleep, cycles))
        else:
            self._sleep(cycles)

    def _sleep(self, cycles: int) -> None:
        started_ns, ran_ns = self.reached_ns(), int(cycles / CYCLES_PER_NS)
        self.busy_until_ns = started_ns + ran_ns
        if self.is_profiled:
            self.kernels.append(Kernel("spin", started_ns, ran_ns))

    def wait_until(self, time_ns: int) -> None:
        """The host waits for the device."""
        self._require_context()
        self.forbid_while_capturing()
        if (left_ns := time_ns - time.perf_counter_ns()) > 0:
            time.sleep(left_ns * 1e-9)
        while time.perf_counter_ns() < time_ns:
            pass

    def forbid_while_capturing(self) -> None:
        """Raise as CUDA does; the capture is lost then."""
        if self.capture is not None:
            self.capture.is_broken = self.is_spoilt = True
            raise RuntimeError(NOT_WHILE_CAPTURING)

    def hold(self, tensor: torch.Tensor) -> None:
        """Count a tensor's memory until its storage is freed. Raises `torch.OutOfMemoryError`."""
        storage = tensor.untyped_storage()
        address, num_bytes = storage._cdata, -(-storage.nbytes() // ROUNDING_BYTES) * ROUNDING_BYTES
        if address in self._storages or num_bytes == 0:
            return
        if self.allocated.current + num_bytes > MEMORY_BYTES:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {num_bytes / 2**20:.2f} MiB of {MEMORY_BYTES >> 20}."
            )
        self._storages.add(address)
        self.allocated.add(num_bytes)
        self.requested.add(storage.nbytes())
        weakref.finalize(storage, self._free, address, num_bytes, storage.nbytes())
        if self.capture is not None:
            self.capture.storages[address] = num_bytes

    def _require_context(self) -> None:
        if self.is_lost:
            raise RuntimeError(LOST)

    def _free(self, address: int, num_bytes: int, num_requested: int) -> None:
        self._storages.discard(address)
        self.allocated.add(-num_bytes)
        self.requested.add(-num_requested)


DEVICE = Device()
