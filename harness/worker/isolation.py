"""What keeps a worker from harming its parent: its life, its memory, its standard streams."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that the kernel sends this process when its parent dies (Linux)."""


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies, whatever it is doing then."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the call above
        os._exit(1)


def prefer_as_oom_victim() -> None:
    """Let the OOM killer choose this process, so that the parent lives to say so."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def take_over_stdin() -> IO[str]:
    """Return the stream of requests. An implementation that reads from standard input finds its end."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return requests


def take_over_stdout() -> IO[str]:
    """Return the stream for replies. What implementations print goes to standard error from here on."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies
