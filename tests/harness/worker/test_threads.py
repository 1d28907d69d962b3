"""Whose a worker's threads are, and that those of other arms sleep, or are named, while one is timed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gqabench.harness.machine.cpu_time import descendants
from gqabench.harness.worker.timing.threads import QuietSlice, Task, TaskTable, fall_asleep, tasks_now

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell threads")


class Worker:
    """A thread that computes while it is told to."""

    def __init__(self) -> None:
        self.is_told = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._thread.native_id is not None
        self.task = Task(self._thread.native_id, is_process=False)

    def _run(self) -> None:
        while not self._is_over:
            self.is_told.wait()
            sum(range(1000))

    def end(self) -> None:
        self._is_over = True
        self.is_told.set()
        self._thread.join()


@contextmanager
def worker() -> Iterator[Worker]:
    one = Worker()
    try:
        yield one
    finally:
        one.end()


def compute(seconds: float) -> None:
    """Take some time that other threads can use as well."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.001)


def test_threads_belong_to_the_arm_that_made_or_uses_them() -> None:
    with worker() as before:
        table = TaskTable()
        with worker() as of_a:
            table.claim("a")
            assert {before.task, of_a.task} <= table.not_of("b")
            assert before.task in table.not_of("a")
            assert of_a.task not in table.not_of("a")
            with table.using("b"):
                before.is_told.set()
                compute(0.05)
                before.is_told.clear()
            assert before.task not in table.not_of("b")
            assert of_a.task in table.not_of("b")
            assert (table.owner(of_a.task), table.owner(before.task)) == ("a", "torch")
        until = time.monotonic() + 10
        while of_a.task in tasks_now():  # it has been joined, and ends a moment later
            assert time.monotonic() < until
        table.claim("b")
        assert of_a.task not in table.not_of("b"), "it has ended"


def test_what_spins_for_a_while_is_waited_for() -> None:
    with worker() as one:
        one.is_told.set()
        compute(0.02)
        assert one.task.is_running()
        threading.Timer(0.1, one.is_told.clear).start()
        started = time.monotonic()
        assert one.task not in fall_asleep(frozenset({one.task}), 10)
        assert time.monotonic() - started < 5


def test_a_busy_thread_is_named_by_its_arm_and_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with worker() as one:
        table = TaskTable()
        with worker() as busy:
            table.claim("culprit")
            busy.is_told.set()
            waits = []

            def told(tasks: frozenset[Task], most_s: float) -> frozenset[Task]:
                waits.append(tasks)
                return fall_asleep(tasks, most_s / 10)

            monkeypatch.setattr("gqabench.harness.worker.timing.threads.fall_asleep", told)
            quiet = QuietSlice(table, "victim")
            for _ in range(3):
                quiet.begin_call()
                compute(0.05)
                quiet.end_call()
    assert list(quiet.busy_cores) == ["culprit"]
    assert quiet.busy_cores["culprit"] > 0.2
    assert one.task in waits[0]
    assert busy.task in waits[0]
    assert all(busy.task not in later for later in waits[1:])


def test_sleeping_threads_take_nothing() -> None:
    table = TaskTable()
    with worker():
        table.claim("sleeper")
        quiet = QuietSlice(table, "one")
        quiet.begin_call()
        compute(0.02)
        quiet.end_call()
    assert sum(quiet.busy_cores.values()) < 0.01


def test_what_is_busy_all_the_time_is_not_taken_for_the_arms_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gqabench.harness.worker.timing.threads._LONGEST_WAIT_S", 0.02)
    with worker() as busy:
        table = TaskTable()
        table.claim("culprit")
        busy.is_told.set()
        with table.using("victim"):
            compute(0.05)
        assert busy.task in table.not_of("victim")


def test_a_call_shorter_than_the_step_of_the_clocks_sees_what_runs() -> None:
    table = TaskTable()
    child = subprocess.Popen(["sh", "-c", f"{sys.executable} -c 'while True: pass'; true"])
    try:
        until = time.monotonic() + 10
        while not any(task.is_process and task.is_running() for task in tasks_now()):
            assert time.monotonic() < until
        compute(0.1)
        table.claim("culprit")
        quiet = QuietSlice(table, "victim")
        for _ in range(3):
            quiet.begin_call()
            quiet.end_call()
    finally:
        for pid in descendants(child.pid):
            os.kill(pid, signal.SIGKILL)
        child.wait()
    assert quiet.busy_cores["culprit"] > 0.5, "the child of a shell"


def test_a_busy_child_process_is_named_too() -> None:
    table = TaskTable()
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        table.claim("culprit")
        assert Task(child.pid, is_process=True) in tasks_now()
        compute(0.2)
        quiet = QuietSlice(table, "victim")
        quiet.begin_call()
        compute(0.1)
        quiet.end_call()
    finally:
        child.kill()
        child.wait()
    assert quiet.busy_cores["culprit"] > 0.2
    assert Task(child.pid, is_process=True).cpu_seconds() == 0
    assert not Task(child.pid, is_process=True).is_running()


def test_without_others_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gqabench.harness.worker.timing.threads.tasks_now", frozenset)
    monkeypatch.setattr("gqabench.harness.worker.timing.threads.fall_asleep", None)
    quiet = QuietSlice(TaskTable(), "alone")
    quiet.begin_call()
    quiet.end_call()
    assert quiet.busy_cores == {}
