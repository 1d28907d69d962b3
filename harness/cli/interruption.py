"""Ctrl-C, SIGTERM and SIGHUP: each ends a command by `KeyboardInterrupt`, but never within an import.

A module whose import was interrupted stays incomplete in this process, and the report would then fail on it.
"""

from __future__ import annotations

import signal
from types import FrameType

_RETRY_SECONDS = 0.05
_IMPORTLIB = "<frozen importlib._bootstrap>"


def interrupt_between_imports() -> None:
    """Install the signal handlers.

    A signal that is ignored, as in a background shell or under nohup, stays ignored.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    signal.signal(signal.SIGALRM, _interrupt)


def _interrupt(_signal: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        signal.setitimer(signal.ITIMER_REAL, _RETRY_SECONDS)
        return
    signal.setitimer(signal.ITIMER_REAL, 0)
    raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTLIB:
            return True
        frame = frame.f_back
    return False
