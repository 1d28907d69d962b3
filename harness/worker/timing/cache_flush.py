"""Cold caches: reading more than the last-level cache between two calls."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch

_FLUSH_FACTOR = 2
"""How often the last-level cache is read over: adaptive replacement keeps some lines in one pass."""

_SYSFS_CPUS = Path("/sys/devices/system/cpu")
_SIZE_SUFFIXES = {"K": 2**10, "M": 2**20, "G": 2**30}


class CacheFlush:
    """Calling it leaves no line of a problem's tensors in the device's last-level cache."""

    def __init__(self, device: str) -> None:
        # On a CPU the threads share the reading, and each has to flush the cache that its core has.
        cache_bytes = all_usable_caches_bytes() if device == "cpu" else last_level_cache_bytes(device)
        num_bytes = _FLUSH_FACTOR * cache_bytes
        self.buffer = torch.ones(num_bytes // 4, dtype=torch.float32, device=device)
        self._sum = torch.empty((), dtype=torch.float32, device=device)

    def __call__(self) -> None:
        # Read, not written: lines that a cache has yet to write back would be written during the timed call.
        torch.sum(self.buffer, dim=0, out=self._sum)


def last_level_cache_bytes(device: str) -> int:
    """Return the bytes of the last-level cache that one core, or the GPU, sees. Raises `RuntimeError`."""
    if device != "cpu":
        return int(torch.cuda.get_device_properties(torch.device(device)).L2_cache_size)
    sizes = [_parse_size(path.read_text()) for path in (_SYSFS_CPUS / "cpu0" / "cache").glob("index*/size")]
    if not sizes:
        sizes = [os.sysconf(name) for name in ("SC_LEVEL3_CACHE_SIZE", "SC_LEVEL2_CACHE_SIZE")]
    if max(sizes) <= 0:
        raise RuntimeError(
            "the size of the last-level cache is unknown: neither sysfs nor sysconf reports it"
        )
    return max(sizes)


def all_last_level_caches_bytes(cpus: Iterable[int], sysfs_cpus: Path = _SYSFS_CPUS) -> int:
    """Return the bytes of the last-level caches of some CPUs, each counted once; 0 if unknown."""
    sizes: dict[tuple[str, str], int] = {}
    for cpu in cpus:
        levels = {}
        for index in (sysfs_cpus / f"cpu{cpu}" / "cache").glob("index*"):
            try:
                level, size, sharers = (
                    (index / name).read_text().strip() for name in ("level", "size", "shared_cpu_list")
                )
            except OSError:
                continue
            levels[level] = (sharers, int(size.removesuffix("K")) * 1024)
        if levels:
            last = max(levels)
            sharers, num_bytes = levels[last]
            sizes[last, sharers] = num_bytes
    return sum(sizes.values())


def all_usable_caches_bytes() -> int:
    """Return the bytes of the last-level caches of all CPUs that this process may use."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return max(all_last_level_caches_bytes(usable), last_level_cache_bytes("cpu"))


def _parse_size(text: str) -> int:
    text = text.strip()
    if text[-1] in _SIZE_SUFFIXES:
        return int(text[:-1]) * _SIZE_SUFFIXES[text[-1]]
    return int(text)
