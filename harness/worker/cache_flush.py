"""Cold caches: reading more than the last-level cache between two calls."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_FLUSH_FACTOR = 2
"""How often the last-level cache is read over: adaptive replacement keeps some lines in one pass."""

_SYSFS_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_SIZE_SUFFIXES = {"K": 2**10, "M": 2**20, "G": 2**30}


class CacheFlush:
    """Calling it leaves no line of a problem's tensors in the device's last-level cache."""

    def __init__(self, device: str) -> None:
        num_bytes = _FLUSH_FACTOR * last_level_cache_bytes(device)
        self._buffer = torch.ones(num_bytes // 4, dtype=torch.float32, device=device)

    def __call__(self) -> None:
        if self._buffer.device.type == "cuda":
            self._buffer.zero_()  # queued; a write allocates in the L2 as a read does
        else:
            self._buffer.sum()


def last_level_cache_bytes(device: str) -> int:
    """Bytes of the last-level cache that one core, or the GPU, sees. `RuntimeError` when nothing tells."""
    if device != "cpu":
        return int(torch.cuda.get_device_properties(torch.device(device)).L2_cache_size)
    sizes = [_parse_size(path.read_text()) for path in _SYSFS_CACHES.glob("index*/size")]
    if not sizes:
        sizes = [os.sysconf(name) for name in ("SC_LEVEL3_CACHE_SIZE", "SC_LEVEL2_CACHE_SIZE")]
    if max(sizes) <= 0:
        raise RuntimeError(
            "the size of the last-level cache is not known: neither sysfs nor sysconf tells it"
        )
    return max(sizes)


def _parse_size(text: str) -> int:
    text = text.strip()
    if text[-1] in _SIZE_SUFFIXES:
        return int(text[:-1]) * _SIZE_SUFFIXES[text[-1]]
    return int(text)
