"""The worker's own threads: whose they are, and whether they sleep while another arm's calls are timed.

Pools of threads spin for milliseconds after their work before they sleep: OpenMP's after each flush of the
cache and each call of an arm that computes with it, ONNX Runtime's after its own. A call of an arm that uses
another pool would share its cores with them. So the threads that an arm's calls do not use are waited for,
and those that do not fall asleep are named by the arm that left them, as are processes that it started.
Threads that an arm uses itself spin as they do for a caller who calls it again and again. See
`docs/adr/0021-idle-workers-are-stopped.md`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from gqabench.harness.machine.cpu_time import descendants, process_cpu_seconds, thread_cpu_seconds

_PROC = Path("/proc")
_LONGEST_WAIT_S = 0.25
"""In one slice, for what spins: what spins for longer is not waiting for work."""
_LOOK_S = 50e-6
_USED_S = 20e-6
"""CPU time in one call from which on a thread counts as used by it."""
_NO_ARM = "torch"


@dataclass(frozen=True)
class Task:
    """What can run beside the main thread."""

    number: int
    is_process: bool
    """A descendant of this process, or one of its threads"""

    def cpu_seconds(self) -> float:
        """Return the CPU time so far; 0 once it has ended."""
        return process_cpu_seconds(self.number) if self.is_process else thread_cpu_seconds(self.number)

    def is_running(self) -> bool:
        """Return whether it runs or waits for a CPU; False once it has ended."""
        folder = _PROC if self.is_process else _PROC / "self" / "task"
        try:
            with (folder / str(self.number) / "stat").open("rb") as file:
                return file.read().rpartition(b") ")[2][:1] == b"R"
        except OSError:
            return False


Tasks = frozenset[Task]


def tasks_now() -> Tasks:
    """Return the threads but the main one, and all descendants; empty where /proc does not tell them."""
    found = {Task(child, is_process=True) for child in descendants(os.getpid())}
    with suppress(OSError):
        threads = (int(thread.name) for thread in (_PROC / "self" / "task").iterdir())
        found.update(Task(thread, is_process=False) for thread in threads)
    return frozenset(found) - {Task(os.getpid(), is_process=False)}


def fall_asleep(tasks: Tasks, most_s: float) -> Tasks:
    """Wait until none of some tasks runs, for so many seconds at most; return those that still do."""
    deadline = time.monotonic() + most_s
    running = frozenset(task for task in tasks if task.is_running())
    while running and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        running = frozenset(task for task in running if task.is_running())
    return running


@dataclass
class TaskTable:
    """Threads and children of this process by the arms that made and use them."""

    _owners: dict[Task, str | None] = field(default_factory=dict)
    """None for what no arm made: PyTorch's pools, from making the inputs"""
    _used: dict[str, set[Task]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.claim(None)

    def claim(self, arm: str | None) -> None:
        """Give what is new since the last claim to an arm; forget what has ended."""
        self._owners = {task: self._owners.get(task, arm) for task in tasks_now()}

    @contextmanager
    def using(self, arm: str) -> Iterator[None]:
        """Note that what runs inside is used by the arm. All else is waited for first."""
        self.claim(arm)
        busy = fall_asleep(frozenset(self._owners), _LONGEST_WAIT_S)  # and so not the arm's
        before = {task: task.cpu_seconds() for task in self._owners.keys() - busy}
        yield
        self.claim(arm)
        used = self._used.setdefault(arm, set())
        used |= {task for task, seconds in before.items() if task.cpu_seconds() - seconds > _USED_S}

    def not_of(self, arm: str) -> Tasks:
        """Return what the arm neither made nor uses."""
        used = self._used.get(arm, set())
        return frozenset(task for task, owner in self._owners.items() if owner != arm and task not in used)

    def owner(self, task: Task) -> str:
        """Return the arm that made it, or `torch` for what was there before any arm."""
        return self._owners.get(task) or _NO_ARM


class QuietSlice:
    """Keeps an arm's timed calls apart from what other arms left, and sees what that takes all the same."""

    def __init__(self, table: TaskTable, arm: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._table = table
        self._others = self._awaited = table.not_of(arm)
        self._left_s = _LONGEST_WAIT_S
        self._clock = clock
        self._began_s: float | None = None
        self._before: dict[Task, float] = {}
        self._running: Tasks = frozenset()
        self._taken_s = dict.fromkeys(self._others, 0.0)
        self._timed_s = 0.0

    def settle(self) -> None:
        """Wait until the others sleep. What outlasts the slice's allowance is not waited for again."""
        if not self._awaited:
            return
        began_s = self._clock()
        running = fall_asleep(self._awaited, self._left_s)
        self._left_s = max(self._left_s - (self._clock() - began_s), 0.0)
        if running:
            self._awaited -= running

    def begin_call(self) -> None:
        """Wait until the others sleep, and note their CPU time before a timed call."""
        self.settle()
        if self._others:
            self._running = frozenset(task for task in self._others if task.is_running())
            self._before = {task: task.cpu_seconds() for task in self._others}
            self._began_s = self._clock()

    def end_call(self) -> None:
        """Add what the others took during the call. Does nothing where none was begun.

        A call may be shorter than the step of their clocks: what ran before it and after it ran during it.
        """
        if self._began_s is None:
            return
        elapsed_s = self._clock() - self._began_s
        self._timed_s += elapsed_s
        self._began_s = None
        for task, before_s in self._before.items():
            is_busy = task in self._running and task.is_running()
            self._taken_s[task] += max(task.cpu_seconds() - before_s, elapsed_s if is_busy else 0.0)

    @property
    def busy_cores(self) -> dict[str, float]:
        """Cores that the others kept busy during the timed calls, on average, by the arm that made them."""
        cores: dict[str, float] = {}
        for task, taken_s in self._taken_s.items():
            if taken_s > 0:
                owner = self._table.owner(task)
                cores[owner] = cores.get(owner, 0.0) + taken_s / self._timed_s
        return cores
