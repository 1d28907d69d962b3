"""The memory of one call, and what it ran, read from the profiler and the allocator."""

from __future__ import annotations

import ctypes
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd.profiler import profile as autograd_profile
from torch.profiler import ProfilerActivity, profile

_MEMORY_EVENT = "[memory]"
_PAGE_SIZE_BYTES = 4096
_PROCESS = Path("/proc/self")
_RESTART_PEAK = "5"
"""Written to `clear_refs`, sets the peak of the resident set to what it is now (proc(5))."""
_UNSEEN_FROM_BYTES = 8 * 2**20
_UNSEEN_FROM_SHARE = 1.0
"""A process grows by whole pages, and by gaps between what is freed and what comes next: up to 5 MB, or
55 % of what the allocator counts, were seen where many tensors of different sizes live in turn."""


@dataclass(frozen=True)
class Weight:
    """What one call needs and what it runs. Bytes are as in a record."""

    peak_workspace_bytes: int
    allocator_reserved_bytes: int | None
    allocator_allocated_bytes: int | None
    allocator_peak_bytes: int | None
    process_bytes: int | None
    unseen_workspace_bytes: int | None
    """By how much more the process grew for the call than PyTorch's allocator knows of"""
    kernels: list[str]
    """What did the work: operators on a CPU, kernels on CUDA."""
    num_launches: int | None
    """CUDA: kernels that the call launched, copies and fills among them"""
    operators: list[str]
    """Operators of PyTorch that the call dispatched, on either."""

    def record_fields(self) -> dict[str, Any]:
        """As a record has them."""
        return {key: value for key, value in asdict(self).items() if key != "operators"}


def weigh_call(call: Callable[[], torch.Tensor], device: str) -> Weight:
    """Run a call once under the profiler.

    On a CPU every allocation is an event, so the peak is exact and the same each time. On CUDA the caching
    allocator's own peak is taken, of the bytes that it was asked for: what it hands out is up to 1 MiB more,
    by what happens to be free.
    """
    return _weigh_on_cpu(call) if device == "cpu" else _weigh_on_cuda(call, torch.device(device))


@dataclass
class Allocated:
    """What some code left allocated."""

    num_bytes: int | None = None
    """None until the code has ended."""


@contextmanager
def counting_allocated(device: str) -> Iterator[Allocated]:
    """Counts the bytes that PyTorch's allocator handed out inside and did not get back.

    Exact, on a CPU by the profiler's events. Memory that comes from elsewhere is not seen.
    """
    allocated = Allocated()
    if device == "cpu":
        with _profiling([ProfilerActivity.CPU]) as profiler:
            yield allocated
        allocated.num_bytes = sum(
            event.nbytes() for event in _events(profiler) if event.name() == _MEMORY_EVENT
        )
    else:
        before = _requested_bytes(device, "current")
        yield allocated
        allocated.num_bytes = _requested_bytes(device, "current") - before


class SetUpMemory:
    """What an implementation keeps once it is prepared and has been called: counted from its making on."""

    def __init__(self, device: str, synchronize: Callable[[], None]) -> None:
        self._device = device
        self._synchronize = synchronize
        self._modules = frozenset(sys.modules)
        self._resident_bytes = settled_resident_bytes() if device == "cpu" else None
        self._by_preparing = Allocated()
        self._by_calls: list[int] = []

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Counts what is allocated inside and stays."""
        with counting_allocated(self._device) as self._by_preparing:
            yield

    def of_call(self, call: Callable[[], object]) -> tuple[object, float]:
        """The output of a call, and its milliseconds; what it leaves allocated beside its output counts."""
        with counting_allocated(self._device) as allocated:
            started = time.perf_counter()
            output = call()
            self._synchronize()
            elapsed_ms = (time.perf_counter() - started) * 1e3
        self._by_calls.append((allocated.num_bytes or 0) - _storage_bytes(output))
        return output, elapsed_ms

    @property
    def kept_bytes(self) -> int:
        """What preparing left allocated, and the call that left the most: the first makes what others use."""
        return (self._by_preparing.num_bytes or 0) + max([0, *self._by_calls])

    def unseen_bytes(self) -> int | None:
        """By how much more the process has grown than PyTorch's allocator knows of; call it without outputs.

        None on CUDA, and where modules were imported meanwhile, whose code and data are nobody's cache.
        """
        now = None if self._resident_bytes is None else settled_resident_bytes()
        if now is None or self._resident_bytes is None or self._modules != frozenset(sys.modules):
            return None
        return unseen_bytes(max(now - self._resident_bytes, 0), self.kept_bytes)


def peak_of(allocations: Iterable[int]) -> int:
    """The highest running sum of allocated (positive) and freed (negative) bytes, at least 0."""
    current = peak = 0
    for num_bytes in allocations:
        current += num_bytes
        peak = max(peak, current)
    return peak


def settled_resident_bytes() -> int | None:
    """Resident set size once malloc has given back what it keeps of blocks that were freed."""
    _give_back_freed()
    return resident_set_bytes()


def resident_set_bytes() -> int | None:
    """Resident set size of this process; None where /proc does not tell it."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_SIZE_BYTES
    except OSError:
        return None


def process_growth_bytes(call: Callable[[], torch.Tensor]) -> int | None:
    """By how much the resident set rises at most while a call runs; None where /proc does not tell it.

    First malloc gives back what it has kept of earlier calls, so that it counts again. What other allocators
    have kept is resident already: this is a lower bound.
    """
    _give_back_freed()
    try:
        (_PROCESS / "clear_refs").write_text(_RESTART_PEAK)
        before = _status_bytes("VmRSS")
    except OSError:
        return None
    output = call()
    peak = _status_bytes("VmHWM")
    del output
    return None if before is None or peak is None else max(peak - before, 0)


def unseen_bytes(growth_bytes: int | None, allocated_bytes: int) -> int | None:
    """What of a process's growth PyTorch's allocator does not explain; 0 where pages and gaps may."""
    if growth_bytes is None:
        return None
    unseen = growth_bytes - allocated_bytes
    return unseen if unseen > _UNSEEN_FROM_BYTES + _UNSEEN_FROM_SHARE * allocated_bytes else 0


def warm_up_profiler() -> None:
    """Take what the profiler loads at its first use before any case."""
    _profiled(lambda: torch.zeros(1), [ProfilerActivity.CPU])


def _weigh_on_cpu(call: Callable[[], torch.Tensor]) -> Weight:
    events = _profiled(call, [ProfilerActivity.CPU])
    operators = _first_appearances(event.name() for event in events if event.name() != _MEMORY_EVENT)
    peak = peak_of(event.nbytes() for event in events if event.name() == _MEMORY_EVENT)
    return Weight(
        peak_workspace_bytes=peak,
        allocator_reserved_bytes=None,  # the CPU allocator keeps nothing back
        allocator_allocated_bytes=None,
        allocator_peak_bytes=None,
        process_bytes=resident_set_bytes(),
        unseen_workspace_bytes=unseen_bytes(process_growth_bytes(call), peak),
        kernels=operators,
        num_launches=None,
        operators=operators,
    )


def _weigh_on_cuda(call: Callable[[], torch.Tensor], device: torch.device) -> Weight:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # what references and other arms have given back is not this call's
    torch.cuda.reset_peak_memory_stats(device)
    resident, requested = torch.cuda.memory_allocated(device), _requested_bytes(device, "current")
    output = call()
    torch.cuda.synchronize(device)
    peak = _requested_bytes(device, "peak") - requested
    allocated_peak = torch.cuda.max_memory_allocated(device)
    reserved = torch.cuda.memory_reserved(device)
    del output
    events = _profiled(call, [ProfilerActivity.CPU, ProfilerActivity.CUDA], device)
    names: dict[bool, list[str]] = {True: [], False: []}
    for event in events:
        if event.name() != _MEMORY_EVENT and not event.is_user_annotation():
            names[event.device_type() == torch.profiler.DeviceType.CUDA].append(event.name())
    return Weight(
        peak_workspace_bytes=peak,
        allocator_reserved_bytes=reserved,
        allocator_allocated_bytes=resident,
        allocator_peak_bytes=allocated_peak,
        process_bytes=None,  # NVML knows it, from the parent
        unseen_workspace_bytes=None,
        kernels=_first_appearances(names[True]),
        num_launches=len(names[True]),
        operators=_first_appearances(names[False]),
    )


def _requested_bytes(device: str | torch.device, when: str) -> int:
    """Bytes that PyTorch's allocator was asked for and has not got back: `current`, or their `peak`."""
    return int(torch.cuda.memory_stats(device).get(f"requested_bytes.all.{when}", 0))


def _profiled(
    call: Callable[[], torch.Tensor], activities: list[ProfilerActivity], device: torch.device | None = None
) -> list[Any]:
    """The profiler's raw events of one call, in order of time."""
    with _profiling(activities) as profiler:
        output = call()
        if device is not None:
            torch.cuda.synchronize(device)
    del output
    return sorted(_events(profiler), key=lambda event: event.start_ns())


@contextmanager
def _profiling(activities: list[ProfilerActivity]) -> Iterator[profile | autograd_profile]:
    """Profile what is inside.

    For a CPU without `torch.profiler`, which loads torch._inductor to read a setting of CUDA graphs: that
    took 1.5 of the 4 CPU seconds in which a worker starts.
    """
    profiler: profile | autograd_profile
    if activities == [ProfilerActivity.CPU]:
        profiler = autograd_profile(profile_memory=True, use_kineto=True)
    else:
        profiler = profile(activities=activities, profile_memory=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with profiler:
            yield profiler


def _events(profiler: profile | autograd_profile) -> list[Any]:
    recorded = profiler.profiler if isinstance(profiler, profile) else profiler
    assert recorded is not None and recorded.kineto_results is not None
    return list(recorded.kineto_results.events())


def _give_back_freed() -> None:
    with suppress(AttributeError):  # a C library that cannot
        ctypes.CDLL(None).malloc_trim(0)


def _storage_bytes(output: object) -> int:
    """Bytes of the memory that the tensors of an output stand in."""
    tensors = output if isinstance(output, (list, tuple)) else [output]
    storages = [tensor.untyped_storage() for tensor in tensors if isinstance(tensor, torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _status_bytes(name: str) -> int | None:
    """A size that /proc/self/status tells."""
    for line in (_PROCESS / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _first_appearances(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
