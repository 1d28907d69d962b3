"""Workers that are forked from a process which has loaded torch: the 1.7 s of a worker's imports, paid once.

Run as a program it listens at a socket and forks a worker for each caller; `starting_forked` is the caller's
side, and `ForkedWorker` has what `WorkerProcess` uses of a `subprocess.Popen`. A forked worker is what
`bootstrap.py` makes of an interpreter that has imported the worker's modules, except that it flushes little
and measures small roofs. Workers of other interpreters, sources or variables are started as they always are.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gqabench.harness.workers.environments import Environment

PROJECT = Path(__file__).resolve().parents[2]
OF_NO_MATTER = frozenset(
    {
        "HYDRA_FULL_ERROR", "OLDPWD", "PWD", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "TRITON_INTERPRET",
        "_",
    }
)  # fmt: skip
"""Variables that no worker reads as it starts. Triton is imported when a kernel of it is asked for."""


@contextmanager
def forking_workers(environment: dict[str, str], address: Path) -> Iterator[None]:
    """Serve forked workers that have these variables, as long as the context lasts."""
    server = subprocess.Popen(
        [sys.executable, "-P", __file__, address], env=environment, stdin=subprocess.PIPE
    )
    try:
        yield
    finally:
        with server:
            assert server.stdin is not None
            server.stdin.close()


class ForkedWorker:
    """A forked worker, as the process that asked for it sees it."""

    def __init__(self, asked: socket.socket, pid: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.returncode: int | None = None
        self._asked = asked

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._asked, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired("a forked worker", timeout or 0)
            self.returncode = int(self._asked.recv(100))
            self._asked.close()
        return self.returncode

    def kill(self) -> None:
        with suppress(ProcessLookupError):  # it may have ended just now
            os.kill(self.pid, signal.SIGKILL)


def starting_forked(address: Path, variables: dict[str, str]) -> Callable[..., Any]:
    """Return what starts a worker in place of `start_interpreter`: forked where it would be the same."""
    from gqabench.harness.machine.source import SOURCE_ROOT
    from gqabench.harness.workers.process import start_interpreter

    def start(environment: Environment, log: IO[bytes]) -> Any:
        is_same = (
            environment.python == sys.executable
            and environment.source_root == SOURCE_ROOT
            and _that_matter(environment.variables) == _that_matter(variables)
        )
        return _start_forked(address, log) if is_same else start_interpreter(environment, log)

    return start


def _that_matter(variables: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name not in OF_NO_MATTER}


def _start_forked(address: Path, log: IO[bytes]) -> ForkedWorker:
    asked = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asked.connect(str(address))
    (its_stdin, requests), (replies, its_stdout) = os.pipe(), os.pipe()
    request = json.dumps({"folder": str(Path.cwd()), "variables": dict(os.environ)}).encode()
    socket.send_fds(asked, [request], [its_stdin, its_stdout, log.fileno()])
    os.close(its_stdin)
    os.close(its_stdout)
    pid = int(asked.recv(100))
    return ForkedWorker(asked, pid, os.fdopen(requests, "wb"), os.fdopen(replies, "rb"))


def _serve(address: str) -> None:
    """Fork a worker for each caller, and tell it how its worker ended, until standard input closes."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(address)
    listening.listen()
    bootstrap = _load()
    gc.freeze()  # else a forked process copies what its collector only looks through
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    selector.register(listening, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                return
            if key.fileobj is listening:
                caller, _ = listening.accept()
                if (pid := _fork_worker(bootstrap, caller)) is not None:
                    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, caller))
            else:
                selector.unregister(key.fileobj)
                os.close(key.fd)
                _tell_end(*key.data)


def _fork_worker(bootstrap: Callable[[], None], caller: socket.socket) -> int | None:
    """Return the worker's process id, which the caller is told; None where that one was interrupted."""
    request, files, _, _ = socket.recv_fds(caller, 1 << 20, 3)
    if not request:
        caller.close()
        return None
    parent_pid = os.getpid()
    if (pid := os.fork()) == 0:
        _become_worker(bootstrap, parent_pid, files, **json.loads(request))
    for file in files:
        os.close(file)
    with suppress(BrokenPipeError):
        caller.send(str(pid).encode())
    return pid


def _tell_end(pid: int, caller: socket.socket) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with caller, suppress(BrokenPipeError):  # the caller may have ended before its worker
        caller.send(str(code).encode())


def _load() -> Callable[[], None]:
    """Import what a worker imports at its start, and nothing else; return its bootstrap's `main`."""
    sys.path.insert(0, str(PROJECT))
    from gqabench.harness.worker import bootstrap, server

    assert callable(server.serve)
    _flush_little()
    _measure_small_roofs()
    del sys.path[0]
    assert "triton" not in sys.modules, "it reads TRITON_INTERPRET when it is imported"
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"a process with {threads} threads cannot be forked safely"
    return bootstrap.main


def _flush_little() -> None:
    """Read 32 MiB or less before a cold call, where a machine's caches may ask for half a second's worth.

    `test_worker_parts` tells that a flush is larger than all caches, `benchmarks/coldness.py` that it works.
    """
    from gqabench.harness.worker.timing import cache_flush

    caches_bytes = min(cache_flush.all_usable_caches_bytes(), 16 * 2**20)
    cache_flush.all_usable_caches_bytes = lambda: caches_bytes


def _measure_small_roofs() -> None:
    """Measure the roofs of a simulated GPU on sizes that suit the CPU which it is: 6 s became 2.

    `test_roofs` tells what sizes a GPU's are measured on.
    """
    from gqabench.harness.worker.timing import roofs

    roofs._FEWEST_BUFFER_BYTES = 32 * 2**20
    roofs._MATRIX_SIZES = roofs._MATRIX_SIZES | {"cuda": (256, 512)}


def _become_worker(
    bootstrap: Callable[[], None], parent_pid: int, files: list[int], folder: str, variables: dict[str, str]
) -> None:
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.closerange(3, max(os.sysconf("SC_OPEN_MAX"), 3))  # callers of other workers among them
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.path.insert(0, "")  # which the bootstrap takes for the folder of its file
    sys.argv = ["bootstrap.py", str(parent_pid), str(PROJECT)]
    bootstrap()
    os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1])
