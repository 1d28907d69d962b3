"""Huge pages under what a worker on a CPU reads: where its memory lies must not decide what it measures.

The kernel hands out scattered pages first. Of two processes that run the same code, the one that allocated
first read its keys and values up to a quarter more slowly (ADR 24).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

_Booleans: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]

_MADV_HUGEPAGE = 14
_MADV_COLLAPSE = 25
"""Of Linux 6.1 and newer; Python's `mmap` does not name it."""
_HUGE_PAGE_SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
_MAPPINGS = Path("/proc/self/maps")
_ALLOCATED = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw.p \S+ \S+ 0\s*(?:\[heap\]|\[anon:.*\])?")
"""Private memory to read and write, of no file: what allocators ask for. malloc puts large blocks on the
heap, too, once it has seen others of the size come and go."""


def use_huge_pages(but_not: torch.Tensor) -> float | None:
    """Move the large memory of this process to huge pages, in place, all but one tensor's.

    Only what is resident as a whole, in stretches of a huge page's size and alignment: no page is added,
    except under memory that was read and never written. Returns the share of these stretches that lies on
    huge pages then; None where Linux cannot, or is older than 6.1, or nothing is as large.
    """
    wanted = moved = 0
    is_known = False
    for start, num_bytes in _resident_runs(range(but_not.data_ptr(), but_not.data_ptr() + but_not.nbytes)):
        wanted += num_bytes
        if not _advise(start, num_bytes, _MADV_COLLAPSE):
            is_known, moved = True, moved + num_bytes
            continue
        step = _huge_page_bytes()
        refusals = [_advise(one, step, _MADV_COLLAPSE) for one in range(start, start + num_bytes, step)]
        moved += refusals.count(0) * step
        is_known |= any(one != errno.EINVAL for one in refusals)
    return moved / wanted if is_known else None


def ask_for_huge_pages(tensor: torch.Tensor) -> None:
    """Say, before a tensor on a CPU is first written, that it should lie on huge pages."""
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if _huge_page_bytes() and end > start:
        _advise(start, end - start, _MADV_HUGEPAGE)


def _advise(start: int, num_bytes: int, advice: int) -> int:
    """Advise the kernel on whole pages; return why it refuses, as in `errno`, or 0."""
    library = ctypes.CDLL(None, use_errno=True)
    refused = library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(num_bytes), advice)
    return ctypes.get_errno() if refused else 0


def _huge_page_bytes() -> int:
    """Return what one huge page holds; 0 where there are none."""
    try:
        return int(_HUGE_PAGE_SIZE.read_text())
    except (OSError, ValueError):
        return 0


def _resident_runs(but_not: range) -> Iterator[tuple[int, int]]:
    """Yield addresses and bytes of what is resident as a whole, in huge pages' size and alignment."""
    page_bytes = _huge_page_bytes()
    if not page_bytes:
        return
    for first, last in _mappings():
        start, end = -(-first // page_bytes) * page_bytes, last // page_bytes * page_bytes
        is_whole = _are_resident(start, end, page_bytes)
        starts = np.arange(start, start + len(is_whole) * page_bytes, page_bytes)
        is_whole &= (starts + page_bytes <= but_not.start) | (starts >= but_not.stop)
        edges = np.flatnonzero(np.diff(is_whole, prepend=False, append=False)).reshape(-1, 2) * page_bytes
        for begin, stop in edges.tolist():
            yield start + begin, stop - begin


def _mappings() -> Iterator[tuple[int, int]]:
    """Yield where each mapping of memory that was allocated begins and ends."""
    try:
        lines = _MAPPINGS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if found := _ALLOCATED.fullmatch(line):
            yield int(found[1], 16), int(found[2], 16)


def _are_resident(start: int, end: int, page_bytes: int) -> _Booleans:
    """Return of each stretch of a huge page's size whether all of it is resident."""
    if end <= start:
        return np.zeros(0, np.bool_)
    pages = np.zeros((end - start) // mmap.PAGESIZE, np.uint8)
    asked = ctypes.CDLL(None).mincore(
        ctypes.c_void_p(start), ctypes.c_size_t(end - start), ctypes.c_void_p(pages.ctypes.data)
    )
    if asked != 0:  # unmapped meanwhile, by a thread of an implementation's
        return np.zeros(0, np.bool_)
    return np.asarray((pages & 1).reshape(-1, page_bytes // mmap.PAGESIZE).all(axis=1), np.bool_)
