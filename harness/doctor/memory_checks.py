"""Whether there is room in memory and on the disk."""

from __future__ import annotations

from pathlib import Path

from gqabench.harness.doctor.findings import Finding, Level

_GIB = 2**30
_LITTLE_MEMORY_BYTES = 2 * _GIB
"""What a worker with torch, the inputs of the default studies and their float64 references need together."""
_NO_DISK_BYTES = 100 * 10**6
_LITTLE_DISK_BYTES = 10**9


def check_memory(num_bytes: int) -> Finding:
    """Warn where little memory is available."""
    what = f"{num_bytes / _GIB:.1f} GiB of memory are available"
    if num_bytes >= _LITTLE_MEMORY_BYTES:
        return Finding("memory", Level.OK, what)
    return Finding("memory", Level.WARNING, what, "end what uses it; cases that do not fit end as `oom`")


def check_swap(used_bytes: int, swapped_bytes: int) -> Finding | None:
    """Check for memory that went to disk, or is going there now."""
    if swapped_bytes > 0:
        what = f"the machine is swapping: {swapped_bytes / 2**20:.1f} MiB while we looked"
        return Finding("swap", Level.WARNING, what, "end what uses the memory")
    if used_bytes > 0:
        return Finding("swap", Level.NOTE, f"{used_bytes / 2**20:.0f} MiB are swapped out; none moved now")
    return None


def check_disk(free_bytes: int | None, results_dir: Path) -> Finding:
    """Check the room for records, figures and logs."""
    if free_bytes is None:
        what = f"{results_dir} cannot be written"
        return Finding("disk", Level.PROBLEM, what, "choose another folder: results_dir=FOLDER")
    what = f"{free_bytes / 1e9:.1f} GB are free for {results_dir}"
    if free_bytes >= _LITTLE_DISK_BYTES:
        return Finding("disk", Level.OK, what)
    level = Level.PROBLEM if free_bytes < _NO_DISK_BYTES else Level.WARNING
    return Finding("disk", level, what, "make room, or results_dir=FOLDER on another disk")
