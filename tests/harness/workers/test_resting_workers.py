"""A worker that is not asked rests: it takes nothing, goes on when it is asked, and dies with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gqabench.harness.machine.cpu_time import process_cpu_seconds
from gqabench.harness.workers.environments import Environment
from gqabench.harness.workers.pool import WorkerPool
from gqabench.harness.workers.process import WorkerFailed, WorkerProcess

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a stopped child")

PROJECT = Path(__file__).resolve().parents[3]
FIRST, SECOND = Environment("first"), Environment("second")

PARENT = """
import signal, sys, time
from pathlib import Path
from gqabench.harness.workers.environments import Environment
from gqabench.harness.workers.process import WorkerProcess

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores
worker = WorkerProcess(Environment("current"), Path(sys.argv[1]))
worker.describe_host(120)
worker.rest()
print(worker.pid, flush=True)
time.sleep(600)
"""


def states(pid: int) -> set[str]:
    """The states of a process's threads: T is stopped."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {(task / "stat").read_text().rpartition(") ")[2][0] for task in tasks}


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if states(pid) <= {"Z", "X"}:  # nobody has waited for it yet
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    with closing(WorkerPool()) as one:
        yield one


def test_one_worker_is_awake_at_a_time(pool: WorkerPool) -> None:
    pool.hosts([FIRST, SECOND])
    first = pool.ready(FIRST)
    second = pool.ready(SECOND)
    assert states(first.pid) == {"T"}
    before_s = process_cpu_seconds(first.pid)
    assert second.describe_host(60).num_threads > 0
    assert "T" not in states(second.pid)
    assert process_cpu_seconds(first.pid) == before_s, "not a nanosecond"
    assert pool.ready(FIRST) is first
    assert states(second.pid) == {"T"}
    assert first.describe_host(60).num_threads > 0, "it goes on when it is asked"
    assert "T" not in states(first.pid)


def test_a_worker_that_is_loading_is_left_alone(pool: WorkerPool) -> None:
    pool.host(FIRST)
    loading = pool.start(SECOND)
    pool.ready(FIRST)
    assert "T" not in states(loading.pid)
    assert pool.host(SECOND).num_threads > 0


def test_a_resting_worker_ends_when_it_is_told_to(tmp_path: Path) -> None:
    with WorkerProcess(FIRST, tmp_path / "log") as worker:
        worker.describe_host(120)
        worker.rest()
        worker.rest()
        started = time.monotonic()
    assert not Path(f"/proc/{worker.pid}").exists()
    assert time.monotonic() - started < 2, "it was woken to say goodbye, and not waited for in vain"


def test_a_resting_worker_that_was_killed_is_a_crash(tmp_path: Path) -> None:
    with WorkerProcess(FIRST, tmp_path / "log") as worker:
        worker.describe_host(120)
        worker.rest()
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerFailed, match="SIGKILL"):
            worker.describe_host(60)
        worker.rest()


def test_a_time_out_of_one_leaves_no_other_behind(pool: WorkerPool) -> None:
    pool.hosts([FIRST, SECOND])
    resting, hanging = pool.ready(FIRST), pool.ready(SECOND)
    assert states(resting.pid) == {"T"}
    hanging.describe_host(60)
    os.kill(hanging.pid, signal.SIGSTOP)
    with pytest.raises(WorkerFailed, match="no answer"):
        hanging.request("close_case", 0.2)
    pool.discard(SECOND)
    assert resting.describe_host(60).num_threads > 0
    resting.rest()
    pool.close()
    assert not Path(f"/proc/{resting.pid}").exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_a_resting_worker_dies_with_its_parent(how: signal.Signals, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path / "log"], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert states(pid) == {"T"}
        try:
            parent.send_signal(how)
            parent.wait(20)
        finally:
            parent.kill()
    assert wait_until_gone(pid)
