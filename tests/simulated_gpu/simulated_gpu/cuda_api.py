"""What stands in for parts of `torch.cuda`: same names, same arguments, on the simulated device."""

from __future__ import annotations

import time
import uuid
from itertools import count
from types import SimpleNamespace
from typing import Any

import torch

from simulated_gpu.device import DEVICE, L2_BYTES, MEMORY_BYTES, Capture

NAME = "NVIDIA Big (simulated)"
UUID = uuid.UUID("22222222-bbbb-4000-8000-000000000002")
"""Of the big GPU of `fake_nvml`."""
CAPABILITY = (9, 0)
NUM_MULTIPROCESSORS = 4


class Stream:
    """Work of all streams is done in the order in which it was asked for."""

    def __init__(self, device: Any = None, priority: int = 0, **_: Any) -> None:
        self.device, self.device_index, self.cuda_stream = torch.device("cuda", 0), 0, id(self)

    def wait_stream(self, stream: Stream) -> None: ...

    def synchronize(self) -> None:
        DEVICE.wait_until(DEVICE.busy_until_ns)


class Event:
    """A moment of the device."""

    def __init__(
        self,
        enable_timing: bool = False,
        blocking: bool = False,
        interprocess: bool = False,
        external: bool = False,
    ) -> None:
        self._is_timed, self._is_external = enable_timing, external
        self._time_ns: int | None = None

    def record(self, stream: Any = None) -> None:
        if DEVICE.capture is None:
            self._note()
        elif self._is_external:
            DEVICE.capture.nodes.append(self._note)

    def _note(self) -> None:
        self._time_ns = DEVICE.reached_ns()

    def query(self) -> bool:
        return self._time_ns is None or time.perf_counter_ns() >= self._time_ns

    def synchronize(self) -> None:
        if self._time_ns is not None:
            DEVICE.wait_until(self._time_ns)

    def elapsed_time(self, end_event: Event) -> float:
        started_ns, ended_ns = self._time_ns, end_event._time_ns
        if not (self._is_timed and end_event._is_timed) or started_ns is None or ended_ns is None:
            raise ValueError("Both events must be recorded, and with timing")
        if not end_event.query():
            raise RuntimeError("CUDA error: device not ready")
        return (ended_ns - started_ns) / 1e6


class CUDAGraph:
    """What was captured, and can be done again."""

    def __init__(self, keep_graph: bool = False) -> None:
        self._capture: Capture | None = None

    def capture_begin(self, pool: Any = None, **_: Any) -> None:
        self._capture = DEVICE.capture = Capture(pool or graph_pool_handle())
        DEVICE.captures.add(self._capture)

    def capture_end(self) -> None:
        assert self._capture is not None
        DEVICE.capture = None
        if self._capture.is_broken:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        self._capture.spoil()

    def replay(self) -> None:
        assert self._capture is not None
        for node in self._capture.nodes:
            node()

    def reset(self) -> None:
        self._capture = None

    def pool(self) -> tuple[int, int]:
        assert self._capture is not None
        return self._capture.pool


class DeviceProperties(SimpleNamespace):
    """As `torch.cuda.get_device_properties` gives them."""


PROPERTIES = DeviceProperties(
    name=NAME,
    uuid=UUID,
    major=CAPABILITY[0],
    minor=CAPABILITY[1],
    multi_processor_count=NUM_MULTIPROCESSORS,
    total_memory=MEMORY_BYTES,
    L2_cache_size=L2_BYTES,
)
CURRENT = [Stream()]
CURRENT[0].cuda_stream = 0  # as of the default one
POOLS = count(1)


def is_available() -> bool:
    return True


def is_initialized() -> bool:
    return True


def device_count() -> int:
    return 1


def current_device() -> int:
    return 0


def set_device(device: Any) -> None:
    assert str(device) in ("0", "cuda", "cuda:0")
    if DEVICE.is_spoilt:  # every case begins by choosing its device
        raise RuntimeError("a capture broke in this process, which should have been replaced")


def synchronize(device: Any = None) -> None:
    DEVICE.wait_until(DEVICE.busy_until_ns)


def current_stream(device: Any = None) -> Stream:
    return CURRENT[0]


def set_stream(stream: Stream) -> None:
    CURRENT[0] = stream


def get_device_properties(device: Any = None) -> DeviceProperties:
    return PROPERTIES


def get_device_capability(device: Any = None) -> tuple[int, int]:
    return CAPABILITY


def get_device_name(device: Any = None) -> str:
    return NAME


def memory_allocated(device: Any = None) -> int:
    return DEVICE.allocated.current


def max_memory_allocated(device: Any = None) -> int:
    return DEVICE.allocated.peak


def memory_reserved(device: Any = None) -> int:
    return DEVICE.allocated.peak


def memory_stats(device: Any = None) -> dict[str, int]:
    return {
        "requested_bytes.all.current": DEVICE.requested.current,
        "requested_bytes.all.peak": DEVICE.requested.peak,
    }


def reset_peak_memory_stats(device: Any = None) -> None:
    DEVICE.allocated.begin_peak()
    DEVICE.requested.begin_peak()


def empty_cache() -> None: ...


def mem_get_info(device: Any = None) -> tuple[int, int]:
    return MEMORY_BYTES - DEVICE.allocated.current, MEMORY_BYTES


def graph_pool_handle() -> tuple[int, int]:
    return 0, next(POOLS)


def memory_snapshot(mempool_id: Any = None, include_traces: bool = True) -> list[dict[str, Any]]:
    return [
        {"segment_pool_id": capture.pool, "total_size": sum(capture.storages.values())}
        for capture in DEVICE.captures
    ]


def _sleep(cycles: int) -> None:
    DEVICE.sleep(cycles)


def _lazy_init() -> None: ...


def _exchange_device(device: int) -> int:
    return 0


STAND_INS = {
    thing.__name__: thing
    for thing in (
        Stream, Event, CUDAGraph, is_available, is_initialized, device_count, current_device, set_device,
        synchronize, current_stream, set_stream, get_device_properties, get_device_capability,
        get_device_name, memory_allocated, max_memory_allocated, memory_reserved, reset_peak_memory_stats,
        empty_cache, mem_get_info, memory_stats, graph_pool_handle, memory_snapshot, _sleep, _lazy_init,
        _exchange_device,
    )
} | {"_maybe_exchange_device": _exchange_device}  # fmt: skip
NOTHING_TO_DO = (
    "_host_emptyCache", "_cuda_endAllocateToPool", "_cuda_releasePool", "_cuda_clearCublasWorkspaces",
)  # fmt: skip
"""Functions of `torch._C`, which a PyTorch without CUDA lacks."""
