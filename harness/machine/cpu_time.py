"""CPU time of other threads and processes, by the kernel's clocks of them, and which processes there are.

Of what runs on another core the clock moves with the scheduler's tick, 4 ms on many kernels; `/proc` tells it
in steps of 10 ms.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_PROCESS_CLOCK = 0b010
_THREAD_CLOCK = 0b110
"""Linux: the clock of an id is `~id << 3` with these bits (include/linux/posix-timers.h)."""


def thread_cpu_seconds(thread: int) -> float:
    """Return the CPU time of a thread of this process; 0 once it has ended, and on systems but Linux."""
    return _read(thread, _THREAD_CLOCK) if sys.platform == "linux" else 0.0


def process_cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process; 0 once it has ended."""
    if sys.platform == "linux":
        return _read(pid, _PROCESS_CLOCK)
    import psutil  # a worker has torch and numpy, and need not have this

    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def other_threads_cpu_seconds() -> float:
    """Return the CPU time of this process less that of the thread that asks."""
    return time.process_time() - time.thread_time()


def descendants(pid: int) -> frozenset[int]:
    """Return the children of a process, and theirs; none on systems but Linux."""
    found: set[int] = set()
    with suppress(OSError):  # it has just ended
        for thread in (_PROC / str(pid) / "task").iterdir():
            with suppress(OSError):  # so has this, or the kernel lists no children
                found.update(map(int, (thread / "children").read_text().split()))
    return frozenset(found).union(*map(descendants, found))


def _read(number: int, bits: int) -> float:
    try:
        return time.clock_gettime((~number << 3) | bits)
    except OSError:
        return 0.0
