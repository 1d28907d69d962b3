"""The memory of one call, and what it ran, read from the profiler and the allocator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity

from gqabench.harness.worker.memory.profiler import MEMORY_EVENT, profiled, requested_bytes
from gqabench.harness.worker.memory.resident_set import (
    process_growth_bytes,
    resident_set_bytes,
    unseen_bytes,
)
from gqabench.harness.workers.replies import CallMemory


@dataclass(frozen=True)
class CallProfile:
    """What was seen of one call."""

    memory: CallMemory
    """Its memory, and what did the work: operators on a CPU, kernels on CUDA"""
    operators: list[str]
    """Operators of PyTorch that it dispatched, on either"""


def profile_call(call: Callable[[], torch.Tensor], device: str) -> CallProfile:
    """Run a call once under the profiler.

    On a CPU every allocation is an event, so the peak is exact and the same each time. On CUDA the caching
    allocator's own peak is taken, of the bytes that it was asked for: what it hands out is up to 1 MiB more,
    by what happens to be free.
    """
    return _profile_on_cpu(call) if device == "cpu" else _profile_on_cuda(call, torch.device(device))


def peak_of(allocations: Iterable[int]) -> int:
    """Return the highest running sum of allocated (positive) and freed (negative) bytes, at least 0."""
    current = peak = 0
    for num_bytes in allocations:
        current += num_bytes
        peak = max(peak, current)
    return peak


def _profile_on_cpu(call: Callable[[], torch.Tensor]) -> CallProfile:
    events = profiled(call, [ProfilerActivity.CPU])
    operators = _first_appearances(event.name() for event in events if event.name() != MEMORY_EVENT)
    peak = peak_of(event.nbytes() for event in events if event.name() == MEMORY_EVENT)
    memory = CallMemory(  # the CPU allocator keeps nothing back: it has nothing reserved
        peak_workspace_bytes=peak,
        process_bytes=resident_set_bytes(),
        unseen_workspace_bytes=unseen_bytes(process_growth_bytes(call), peak),
        kernels=operators,
    )
    return CallProfile(memory, operators)


def _profile_on_cuda(call: Callable[[], torch.Tensor], device: torch.device) -> CallProfile:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # what references and other arms have given back is not this call's
    torch.cuda.reset_peak_memory_stats(device)
    resident, requested = torch.cuda.memory_allocated(device), requested_bytes(device, "current")
    output = call()
    torch.cuda.synchronize(device)
    peak = requested_bytes(device, "peak") - requested
    allocated_peak = torch.cuda.max_memory_allocated(device)
    reserved = torch.cuda.memory_reserved(device)
    del output
    events = profiled(call, [ProfilerActivity.CPU, ProfilerActivity.CUDA], device)
    names: dict[bool, list[str]] = {True: [], False: []}
    for event in events:
        if event.name() != MEMORY_EVENT and not event.is_user_annotation():
            names[event.device_type() == torch.profiler.DeviceType.CUDA].append(event.name())
    memory = CallMemory(  # NVML knows the memory of the process, from the parent
        peak_workspace_bytes=peak,
        allocator_reserved_bytes=reserved,
        allocator_allocated_bytes=resident,
        allocator_peak_bytes=allocated_peak,
        kernels=_first_appearances(names[True]),
        num_launches=len(names[True]),
    )
    return CallProfile(memory, _first_appearances(names[False]))


def _first_appearances(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
