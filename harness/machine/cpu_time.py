"""CPU time of other threads and processes, to the nanosecond: the kernel's clocks of them, by their ids.

`/proc` tells it in ticks of 10 ms, which is as long as many slices of timed calls.
"""

from __future__ import annotations

import sys
import time

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


def _read(number: int, bits: int) -> float:
    try:
        return time.clock_gettime((~number << 3) | bits)
    except OSError:
        return 0.0
