"""Ctrl-C, SIGTERM and SIGHUP: each ends a sweep by `KeyboardInterrupt`, but never within an import.

A module whose import was interrupted stays incomplete in this process, and the report would then fail on it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def interrupted_between_imports() -> Iterator[None]:
    """Install the handler of Ctrl-C alone, until the context ends.

    A program's own handler of Ctrl-C stays in place. Outside the main thread there is nothing to set up.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _is_importing(frame):
        raise KeyboardInterrupt
    # A signal of its own, since a flag would not wake a system call that the main thread sleeps in by then.
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    retry = threading.Timer(_RETRY_SECONDS, signal.pthread_kill, (main_thread, number))
    retry.daemon = True
    retry.start()


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTLIB:
            return True
        frame = frame.f_back
    return False
