"""PyTorch's profiler and its allocators: what some code ran, and what it allocated."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.profiler import profile as autograd_profile
from torch.profiler import ProfilerActivity, profile

MEMORY_EVENT = "[memory]"
"""Name of the profiler's events of a CPU's allocator."""


def warm_up_profiler() -> None:
    """Use the profiler once, before any case: the first use loads modules for about a second."""
    profiled(lambda: torch.zeros(1), [ProfilerActivity.CPU])


@dataclass
class Allocated:
    """What some code left allocated."""

    num_bytes: int | None = None
    """None until the code has ended."""


@contextmanager
def counting_allocated(device: str) -> Iterator[Allocated]:
    """Count the bytes that PyTorch's allocator handed out inside and did not get back.

    Exact, on a CPU by the profiler's events. Memory that comes from elsewhere is not seen.
    """
    allocated = Allocated()
    if device == "cpu":
        with _profiling([ProfilerActivity.CPU]) as profiler:
            yield allocated
        allocated.num_bytes = sum(
            event.nbytes() for event in _events(profiler) if event.name() == MEMORY_EVENT
        )
    else:
        before = requested_bytes(device, "current")
        yield allocated
        allocated.num_bytes = requested_bytes(device, "current") - before


def profiled(
    call: Callable[[], torch.Tensor], activities: list[ProfilerActivity], device: torch.device | None = None
) -> list[Any]:
    """Return the profiler's raw events of one call, in order of time."""
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


def requested_bytes(device: str | torch.device, when: str) -> int:
    """Return the bytes that PyTorch's allocator was asked for and still holds: `current`, or their `peak`."""
    return int(torch.cuda.memory_stats(device).get(f"requested_bytes.all.{when}", 0))
