"""Signals to a command, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3]
PROGRAM = f"""
import signal, sys, time
sys.path[:0] = [{str(PROJECT)!r}]
from gqabench.harness.sweep.interruption import interrupt_between_imports
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
interrupt_between_imports()
try:
    import slow
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted, and slow is", "whole" if hasattr(sys.modules.get("slow"), "end") else "half")
"""
SLOW = """
import time
print("importing", flush=True)
time.sleep(0.5)
end = True
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_import_comes_to_its_end_first(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    assert process.communicate(timeout=30)[0] == "interrupted, and slow is whole\n"


def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    program = PROGRAM.replace("signal.SIG_DFL", "signal.SIG_IGN").replace(
        "sleep(60)", "sleep(0.5); print('done')"
    )
    (tmp_path / "slow.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=30)[0] == "done\n"
