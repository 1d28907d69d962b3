"""The parent's side of a worker: start it, ask it, detect its death. No torch, and no busy waiting."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self, TypeVar

from gqabench.harness.machine.host import HostDescription
from gqabench.harness.machine.source import SOURCE_ROOT
from gqabench.harness.workers.environments import Environment, UnusableEnvironment
from gqabench.harness.workers.protocol import PROTOCOL_VERSION, Message
from gqabench.harness.workers.replies import Failure

_BOOTSTRAP = SOURCE_ROOT / "harness" / "worker" / "bootstrap.py"
_READ_SIZE = 1 << 16
_LOG_TAIL_BYTES = 1 << 16
_PROFILER_CHATTER = re.compile(rb"USDT:|ERROR:.* gpuGetDeviceCount failed with code ")
"""Lines of PyTorch's profiler, at any log level: of 2.13 at each start and stop; of 2.11, in builds for CUDA,
where there is no driver."""
_GOODBYE_SECONDS = 2.0
_REPLY_START = b'{"ok": '


class Readable(Protocol):
    """A type that is read from the values of a reply."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], /) -> Self:
        """Read values. Raises `ValueError` where they are no such reply."""
        ...


R = TypeVar("R", bound=Readable)


class WorkerFailed(Exception):
    """The worker answers no more. `outcome` is `timeout`, `oom`, `crash` or `error`; the message says why."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


class RequestFailed(Exception):
    """The worker lives, but what it was asked for went wrong; `failure` says more than the message."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def start_interpreter(environment: Environment, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a worker. Raises `UnusableEnvironment` where its interpreter cannot be executed."""
    try:
        return subprocess.Popen(
            [environment.python, _BOOTSTRAP, str(os.getpid()), environment.source_root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment.variables,
            start_new_session=True,  # a terminal's Ctrl-C is for the parent
        )
    except OSError as error:  # such as a file of another architecture
        raise environment.unusable(f"cannot be executed: {error.strerror}") from error


class WorkerProcess:
    """One worker. It starts loading torch at once; the first request waits for that."""

    def __init__(self, environment: Environment, log_path: Path) -> None:
        self.environment = environment
        self._log_path = log_path
        self._oom_kills_before = _count_oom_kills()
        with log_path.open("ab") as log:
            self._process = start_interpreter(environment, log)
        self._selector = selectors.DefaultSelector()
        assert self._process.stdout is not None
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._unread = b""
        self._has_answered = False
        self._is_resting = False
        self._said_before = 0
        """Bytes of the log that are from earlier requests, and of other implementations."""

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, kind: type[R], op: str, timeout_s: float, **arguments: Any) -> R:
        """Ask, and return the reply as its type reads it. Raises as `request` does."""
        reply = self.request(op, timeout_s, **arguments)
        try:
            return kind.from_dict(reply)
        except ValueError as error:
            raise WorkerFailed("error", f"the worker's reply to {op}: {error}") from error

    def request(self, op: str, timeout_s: float, **arguments: Any) -> Message:
        """Ask, and sleep until the reply; return its values.

        Raises `RequestFailed` when the reply says so and `WorkerFailed` when there is none; the worker is
        gone then.
        """
        assert self._process.stdin is not None
        self.wake()
        with contextlib.suppress(BrokenPipeError):  # it is gone, and may have said why
            self._process.stdin.write(json.dumps({"op": op, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        while not (line := self._read_line(timeout_s)).startswith(_REPLY_START):
            continue  # what an interpreter's own start-up prints, before the worker takes its output over
        self._has_answered = True
        self._said_before = self._log_path.stat().st_size
        reply: Message = json.loads(line)
        for notice in reply.pop("notices", ()):
            _say_once(notice)
        if not reply["ok"]:
            raise RequestFailed(Failure.from_dict(reply))
        return reply

    def describe_host(self, timeout_s: float) -> HostDescription:
        """Ask what the worker's interpreter can use.

        Raises `UnusableEnvironment` when it lacks what a worker needs, `WorkerFailed` when it ends or hangs.
        """
        try:
            host = self.ask(HostDescription, "describe_host", timeout_s)
        except RequestFailed as refused:
            if refused.failure.is_unusable:
                raise self.environment.unusable(str(refused)) from refused
            raise WorkerFailed(refused.failure.outcome, str(refused)) from refused
        if host.protocol_version != PROTOCOL_VERSION:
            source = f"environments.{self.environment.name}.source={self.environment.source_root}"
            raise UnusableEnvironment(
                f"{source}: its worker speaks protocol {host.protocol_version}, this gqabench"
                f" {PROTOCOL_VERSION}: they cannot be measured together"
            )
        return host

    def rest(self) -> None:
        """Stop all its threads until the next request, so that none takes anything from another worker.

        For one that has answered and was asked nothing since. Does nothing where the kernel would not end a
        stopped worker together with this process (see `die_with_parent`): it would stay for ever.
        """
        if sys.platform != "linux" or self._is_resting or not self._has_answered:
            return
        self._signal(signal.SIGSTOP)
        with contextlib.suppress(ChildProcessError):  # one that is no child of ours stops a moment later
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self._is_resting = True

    def wake(self) -> None:
        """Let its threads go on where `rest` stopped them."""
        if self._is_resting:
            self._signal(signal.SIGCONT)
            self._is_resting = False

    def _signal(self, which: signal.Signals) -> None:
        if self._process.poll() is None:
            os.kill(self.pid, which)

    def kill(self) -> None:
        """End it, whatever it is doing."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._close_pipes()

    def close(self) -> None:
        """Let it finish; end it if it does not, or was never asked and may be loading torch."""
        assert self._process.stdin is not None
        self.wake()
        if self._has_answered:
            with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
                self._process.stdin.close()
                self._process.wait(_GOODBYE_SECONDS)
        self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_line(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        while b"\n" not in self._unread:
            if not self._selector.select(timeout_s):
                self.kill()
                raise WorkerFailed("timeout", f"no answer within {timeout_s:g} s")
            chunk = os.read(self._process.stdout.fileno(), _READ_SIZE)
            if not chunk:
                raise self._failure()
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _failure(self) -> WorkerFailed:
        """Why a worker is gone that nobody here ended."""
        code = self._process.wait()
        self._close_pipes()
        if code == -signal.SIGKILL and _count_oom_kills() > self._oom_kills_before:
            return WorkerFailed("oom", "the worker was killed by the OOM killer")
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        last_words = self._last_words()
        return WorkerFailed("crash", f"the worker {how}" + (f": {last_words}" if last_words else ""))

    def _last_words(self) -> str:
        """Return the last line that the worker has logged since the last call."""
        with self._log_path.open("rb") as log:
            log.seek(max(self._log_path.stat().st_size - _LOG_TAIL_BYTES, self._said_before))
            lines = [line.strip() for line in without_chatter(log) if line.strip()]
        return lines[-1].decode(errors="replace") if lines else ""

    def _close_pipes(self) -> None:
        self._selector.close()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@cache
def _say_once(notice: str) -> None:
    print(f"gqabench: {notice}", file=sys.stderr, flush=True)


def without_chatter(log: Iterable[bytes]) -> Iterator[bytes]:
    """Return the lines of a worker's log that somebody meant to be read."""
    return (line for line in log if not _PROFILER_CHATTER.match(line))


def _count_oom_kills() -> int:
    """Count the processes that the OOM killer has killed, in this control group or machine."""
    for path in (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat")):
        try:
            for line in path.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        except OSError:
            continue
    return 0
