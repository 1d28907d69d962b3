"""Runs a command to its end or to a limit, and leaves no process of it behind."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil


def run_limited(
    command: Sequence[str], seconds: float, folder: Path, log: Path, patience_s: float
) -> int | None:
    """Return the exit code of a command, or None where it was killed after some seconds.

    What it prints is appended to the log. An interruption of this process is passed on as SIGTERM; after
    `patience_s` the command is killed all the same.
    """
    with log.open("a") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    except BaseException:
        process.send_signal(signal.SIGTERM)
        _wait(process, patience_s)
        raise
    finally:
        kill_tree(process)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that descend from it, in whatever session they are."""
    try:
        root = psutil.Process(process.pid)
        family = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return
