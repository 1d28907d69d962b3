"""The state of the process that all implementations share: who changes it disturbs the others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import torch

_TASKS = Path("/proc/self/task")
_LOOK_SECONDS = 0.1
_MOST_LOOKS = 10
"""Thread pools spin for some milliseconds after their work before they sleep; a loop goes on."""
_BUSY_SHARE = 0.25
"""Far above what a thread that polls takes, and below what one that computes gets on a loaded machine."""

_READERS: dict[str, Callable[[], object]] = {
    "num_threads": torch.get_num_threads,
    "num_interop_threads": torch.get_num_interop_threads,
    "default dtype": torch.get_default_dtype,
    "default device": torch.get_default_device,
    "grad mode": torch.is_grad_enabled,
    "inference mode": torch.is_inference_mode_enabled,
    "anomaly detection": torch.is_anomaly_enabled,
    "deterministic algorithms": torch.are_deterministic_algorithms_enabled,
    "seed": torch.initial_seed,
    "float32 matmul precision": lambda: _setting("cuda.matmul.fp32_precision"),
    "float32 matmul precision of oneDNN": lambda: _setting("mkldnn.matmul.fp32_precision"),
    "cudnn.benchmark": lambda: torch.backends.cudnn.benchmark,
    "cudnn.deterministic": lambda: torch.backends.cudnn.deterministic,
    "flash_sdp": torch.backends.cuda.flash_sdp_enabled,
    "mem_efficient_sdp": torch.backends.cuda.mem_efficient_sdp_enabled,
    "cudnn_sdp": torch.backends.cuda.cudnn_sdp_enabled,
    "math_sdp": torch.backends.cuda.math_sdp_enabled,
    "current CUDA stream": lambda: _current_stream(),
    "autocast": lambda: (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
    "working directory": os.getcwd,
    "niceness": lambda: os.getpriority(os.PRIO_PROCESS, 0),
}
if hasattr(os, "sched_getaffinity"):
    _READERS["CPU affinity"] = lambda: sorted(os.sched_getaffinity(0))


@dataclass(frozen=True)
class SharedState:
    """What was read at one moment."""

    values: dict[str, object]
    """Settings of PyTorch and of the process, by the names that a reason uses"""
    threads: frozenset[str]
    """Ids of this process's threads; empty where /proc does not tell them"""

    @classmethod
    def now(cls) -> SharedState:
        """Read everything: some microseconds."""
        return cls({name: read() for name, read in _READERS.items()}, _threads())

    def changes_since(self, before: SharedState) -> list[str]:
        """Say what has changed since; threads that are new and keep computing are among it."""
        changes = [
            f"{name} from {before.values[name]} to {value}"
            for name, value in self.values.items()
            if value != before.values[name]
        ]
        if num_busy := _count_busy(self.threads - before.threads):
            changes.append(f"the number of busy threads by {num_busy}")
        return changes


def _current_stream() -> int:
    """Return the current GPU's stream; 0, the default one, if CUDA is not in use yet."""
    return int(torch.cuda.current_stream().cuda_stream) if torch.cuda.is_initialized() else 0


def _setting(path: str) -> object:
    """Read a setting below `torch.backends`; None in a PyTorch without it (before 2.9)."""
    try:
        return attrgetter(path)(torch.backends)
    except AttributeError:
        return None


def _threads() -> frozenset[str]:
    return frozenset(path.name for path in _TASKS.iterdir()) if _TASKS.is_dir() else frozenset()


def _count_busy(threads: frozenset[str]) -> int:
    """Count the threads that keep computing although nothing was asked of them."""
    for _ in range(_MOST_LOOKS):
        if not threads:
            break
        before = {thread: _wanted_seconds(thread) for thread in threads}
        time.sleep(_LOOK_SECONDS)
        least = _BUSY_SHARE * _LOOK_SECONDS
        threads = frozenset(thread for thread in threads if _wanted_seconds(thread) - before[thread] > least)
    return len(threads)


def _wanted_seconds(thread: str) -> float:
    """Time that a thread has run or waited for a CPU (Documentation/scheduler/sched-stats.rst of Linux).

    0 once it has ended, and where the kernel does not tell it.
    """
    try:
        running, waiting = (_TASKS / thread / "schedstat").read_text().split()[:2]
    except (OSError, ValueError):
        return 0.0
    return (int(running) + int(waiting)) * 1e-9
