"""Memory of the process as the kernel counts it, which sees what no allocator of PyTorch's does."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_PAGE_SIZE_BYTES = 4096
_PROCESS = Path("/proc/self")
_RESTART_PEAK = "5"
"""Written to `clear_refs`, sets the peak of the resident set to what it is now (proc(5))."""
_UNSEEN_FROM_BYTES = 8 * 2**20
_UNSEEN_FROM_SHARE = 1.0
"""A process grows by whole pages, and by gaps between what is freed and what comes next: up to 5 MB, or
55 % of what the allocator counts, were seen where many tensors of different sizes live in turn."""


def settled_resident_bytes() -> int | None:
    """Return the resident set size, once malloc has given back what it keeps of blocks that were freed."""
    _give_back_freed()
    return resident_set_bytes()


def resident_set_bytes() -> int | None:
    """Return the resident set size of this process; None where /proc does not tell it."""
    try:
        return int((_PROCESS / "statm").read_text().split()[1]) * _PAGE_SIZE_BYTES
    except OSError:
        return None


def process_growth_bytes(call: Callable[[], object]) -> int | None:
    """Return by how much the resident set rises at most while a call runs; None where /proc does not tell it.

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
    """Return what PyTorch's allocator does not explain of a process's growth; 0 where pages and gaps may."""
    if growth_bytes is None:
        return None
    unseen = growth_bytes - allocated_bytes
    return unseen if unseen > _UNSEEN_FROM_BYTES + _UNSEEN_FROM_SHARE * allocated_bytes else 0


def _give_back_freed() -> None:
    with suppress(AttributeError):  # a C library that cannot
        ctypes.CDLL(None).malloc_trim(0)


def _status_bytes(name: str) -> int | None:
    """Return a size from /proc/self/status."""
    for line in (_PROCESS / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
