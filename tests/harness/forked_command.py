"""The command line, loaded once and forked for each call: a process of its own from `main` to its exit.

Run as a program it reads calls from stdin, one JSON object a line, and answers with the process id of each
when it starts and with its exit code when it ends. `ForkedCommand` is the other side.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from signal import SIGKILL
from tempfile import TemporaryFile


class ForkedCommand:
    """Calls `gqabench` without the seconds that it takes to import Hydra, pandas and seaborn."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-P", __file__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(
        self, folder: Path, arguments: Sequence[str], environment: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run one command line. Raises `subprocess.TimeoutExpired`."""
        with TemporaryFile("w+") as stdout, TemporaryFile("w+") as stderr:
            open_files = Path("/proc", str(os.getpid()), "fd")
            self._ask(
                {
                    "folder": str(folder),
                    "arguments": arguments,
                    "environment": environment,
                    "stdout": str(open_files / str(stdout.fileno())),
                    "stderr": str(open_files / str(stderr.fileno())),
                }
            )
            pid = self._answer()
            is_late = threading.Event()
            timer = threading.Timer(timeout, _kill, [pid, is_late])
            timer.start()
            returncode = self._answer()
            timer.cancel()
            if is_late.is_set():
                raise subprocess.TimeoutExpired(list(arguments), timeout)
            stdout.seek(0)
            stderr.seek(0)
            return subprocess.CompletedProcess(list(arguments), returncode, stdout.read(), stderr.read())

    def close(self) -> None:
        """End the server."""
        with self._server:
            assert self._server.stdin is not None
            self._server.stdin.close()

    def _ask(self, call: dict[str, object]) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(call) + "\n")
        self._server.stdin.flush()

    def _answer(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())


def _kill(pid: int, is_late: threading.Event) -> None:
    is_late.set()
    with suppress(ProcessLookupError):
        os.kill(pid, SIGKILL)


def _serve() -> int:
    """Fork for each call; the forked process returns from here with what it is to exit with."""
    from gqabench.harness.cli import main

    _load()
    threads = {(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()}
    threads.discard("jemalloc_bg_thd")  # pyarrow's allocator starts its thread anew in a forked process
    assert len(threads) == 1, f"a process with threads cannot be forked safely: {threads}"
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            _become(**json.loads(line))
            return main()
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    return 0


def _load() -> None:
    """Import what a sweep and its report would, by and by."""
    for module in (
        "hydra.main",
        "pyarrow.dataset",
        "gqabench.harness.cli.sweep",
        "gqabench.harness.cli.report",
        "gqabench.harness.sweep.job",
        "gqabench.harness.sweep.sweeper",
        "gqabench.results.store.frame",
        "gqabench.results.store.parquet",
        "gqabench.reports.page",
    ):
        import_module(module)
    _draw_nothing()


def _draw_nothing() -> None:
    """Leave the figures out of reports, at whose drawing a small sweep would spend most of its time.

    The tests of `reports` draw them all; `test_packaging` and `test_python_interface` run sweeps that draw.
    """
    page = import_module("gqabench.reports.page")
    assert callable(page.draw_figures)
    page.draw_figures = lambda frame: ([], [])


def _become(folder: str, arguments: list[str], environment: dict[str, str], stdout: str, stderr: str) -> None:
    for path, number in ((os.devnull, 0), (stdout, 1), (stderr, 2)):
        opened = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["gqabench", *arguments]


if __name__ == "__main__":
    sys.exit(_serve())
