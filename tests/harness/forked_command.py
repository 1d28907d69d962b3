"""The command line, loaded once and forked for each call: a process of its own from `main` to its exit.

Run as a program it reads calls from stdin, one JSON object a line, and answers with the process id of each
when it starts and with its exit code when it ends. `ForkedCommand` is the other side.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO

from tests.harness.forked_worker import forking_workers, starting_forked


class ForkedCommand:
    """Calls `gqabench` without the seconds that it takes to import Hydra, pandas and seaborn."""

    def __init__(self, environment: dict[str, str], program: str = __file__) -> None:
        self._opened = ExitStack()
        address = Path(self._opened.enter_context(TemporaryDirectory()), "workers")
        self._opened.enter_context(forking_workers(environment, address))
        self._server = subprocess.Popen(
            [sys.executable, "-P", program, address],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._last: Started | None = None

    def call(
        self, folder: Path, arguments: Sequence[str], environment: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run one command line. Raises `subprocess.TimeoutExpired`."""
        return self.start(folder, arguments, environment).finish(timeout)

    def start(self, folder: Path, arguments: Sequence[str], environment: dict[str, str]) -> Started:
        """Start one command line. One that a failed test did not wait for is killed before."""
        if self._last is not None:
            self._last.abandon()
        stdout, stderr = TemporaryFile("w+"), TemporaryFile("w+")  # noqa: SIM115  # `finish` closes them
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
        self._last = Started(
            self._answer("pid"), list(arguments), stdout, stderr, partial(self._answer, "end")
        )
        return self._last

    def close(self) -> None:
        """End the server."""
        with self._opened, self._server:
            assert self._server.stdin is not None
            self._server.stdin.close()

    def _ask(self, call: dict[str, object]) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(call) + "\n")
        self._server.stdin.flush()

    def _answer(self, kind: str) -> int:
        assert self._server.stdout is not None
        said, _, number = self._server.stdout.readline().partition(" ")
        assert said == kind, f"the server of forked commands says {said!r}, not {kind}; has it ended?"
        return int(number)


class Started:
    """A command line that runs."""

    def __init__(
        self, pid: int, arguments: list[str], stdout: IO[str], stderr: IO[str], wait: Callable[[], int]
    ) -> None:
        self.pid = pid
        self._arguments = arguments
        self._stdout = stdout
        self._stderr = stderr
        self._wait = wait
        self._has_ended = False

    def finish(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Wait for its end. Raises `subprocess.TimeoutExpired`."""
        is_late = threading.Event()
        timer = threading.Timer(timeout, _kill, [self.pid, is_late])
        timer.start()
        returncode = self._wait()
        self._has_ended = True
        timer.cancel()
        with self._stdout, self._stderr:
            stdout, stderr = (file.seek(0) or file.read() for file in (self._stdout, self._stderr))
        if is_late.is_set():
            raise subprocess.TimeoutExpired(self._arguments, timeout, stdout, stderr)
        return subprocess.CompletedProcess(self._arguments, returncode, stdout, stderr)

    def abandon(self) -> None:
        """Kill it unless it was waited for."""
        if not self._has_ended:
            _kill(self.pid, threading.Event())
            self.finish(60)


def _kill(pid: int, is_late: threading.Event) -> None:
    is_late.set()
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _serve(address_of_workers: Path) -> int:
    from gqabench.harness.cli import main

    _load()
    return serve(address_of_workers, main)


def serve(address_of_workers: Path, main: Callable[[], int]) -> int:
    """Fork for each call; the forked process returns from here with what it is to exit with."""
    process = import_module("gqabench.harness.workers.process")
    process.start_interpreter = starting_forked(address_of_workers, dict(os.environ))
    threads = {(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()}
    threads.discard("jemalloc_bg_thd")  # pyarrow's allocator starts its thread anew in a forked process
    assert len(threads) == 1, f"a process with threads cannot be forked safely: {threads}"
    gc.freeze()  # else a forked process copies what its collector only looks through
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            _become(**json.loads(line))
            return main()
        print("pid", pid, flush=True)
        print("end", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
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

    The tests of `reports` draw them all, and `test_a_finished_run_is_resumed_without_measuring_again` runs a
    sweep that does.
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
    # Tests that a shell started in the background, or by nohup, ignore signals, and so would their children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    sys.argv = ["gqabench", *arguments]


if __name__ == "__main__":
    sys.exit(_serve(Path(sys.argv[1])))
