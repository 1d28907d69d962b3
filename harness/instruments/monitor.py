"""Watches a device and the machine from the parent while a worker is timed: seldom, cheaply, never busy."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from gqabench.harness.machine.nvml import Nvml
from gqabench.results.flags import HARMLESS_CLOCK_REASONS
from gqabench.results.statistics.samples import median

_IDLE = "gpu_idle"

_SHORTEST_LOAD_S = 0.25
"""The kernel counts CPU time in ticks of 10 ms: over a shorter time they drown a load of 0.1 cores."""

_LONGEST_LOOK_S = 5.0
"""For how long a stopped watch waits for its thread, which a driver may hold up."""

_BUSY_STATES = ("user", "nice", "system", "irq", "softirq")
"""Of `psutil.cpu_times`; time that a hypervisor gave to others (`steal`) is not load of this machine."""


@dataclass(frozen=True)
class Sample:
    """One look. None is unknown."""

    at_s: float
    others_cpu_s: float | None = None
    """CPU time since boot of all processes but the worker, this one and their descendants."""
    clock_mhz: int | None = None
    power_w: float | None = None
    temperature_c: int | None = None
    clock_reasons: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Trace:
    """What was seen while a watch lasted. All else is derived from it."""

    samples: tuple[Sample, ...] = ()
    gpu_pids: frozenset[int] | None = None
    """Processes that the driver named as users of the GPU, when the watch began or ended."""
    worker_pid: int | None = None
    own_pids: frozenset[int] = frozenset()
    """This process, the worker, and their descendants."""

    @property
    def clock_mhz(self) -> float | None:
        """Median SM clock of the looks that found the GPU at work; None where there was none."""
        clocks = self._clocks_at_work()
        return median(clocks) if clocks else None

    @property
    def power_w(self) -> float | None:
        """Median power of the board in the looks that found the GPU at work; None where there was none."""
        powers = [sample.power_w for sample in self._looks_at_work() if sample.power_w is not None]
        return median(powers) if powers else None

    @property
    def clock_range_mhz(self) -> float | None:
        """The highest SM clock less the lowest, of the looks that found the GPU at work."""
        clocks = self._clocks_at_work()
        return float(max(clocks) - min(clocks)) if clocks else None

    @property
    def temperature_c(self) -> float | None:
        """The highest that was seen."""
        seen = [sample.temperature_c for sample in self.samples if sample.temperature_c is not None]
        return float(max(seen)) if seen else None

    @property
    def throttle_reasons(self) -> list[str] | None:
        """What held the clocks back in any look, in order of appearance, without what is harmless."""
        told = [sample.clock_reasons for sample in self.samples if sample.clock_reasons is not None]
        if not told:
            return None
        names = dict.fromkeys(name for reasons in told for name in reasons)
        return [name for name in names if name not in HARMLESS_CLOCK_REASONS]

    @property
    def background_load(self) -> float | None:
        """Cores that other processes kept busy, on average; None for less than a quarter of a second."""
        told = [(one.at_s, one.others_cpu_s) for one in self.samples if one.others_cpu_s is not None]
        if len(told) < 2:
            return None
        (began_s, before_s), (ended_s, after_s) = told[0], told[-1]
        if ended_s - began_s < _SHORTEST_LOAD_S:
            return None
        return max(after_s - before_s, 0.0) / (ended_s - began_s)

    @property
    def gpu_other_processes(self) -> bool | None:
        """Whether other processes use the GPU; None where the driver hides processes.

        In a container it names none, or by numbers that mean nothing here: where it does not name the worker,
        one of the others may be the worker.
        """
        if self.gpu_pids is None or self.worker_pid not in self.gpu_pids:
            return None
        return bool(self.gpu_pids - self.own_pids)

    def record_fields(self) -> dict[str, Any]:
        """Return the conditions, as fields of a record."""
        return {
            "clock_mhz": self.clock_mhz,
            "power_w": self.power_w,
            "temperature_c": self.temperature_c,
            "throttle_reasons": self.throttle_reasons,
            "background_load": self.background_load,
        }

    def _clocks_at_work(self) -> list[int]:
        return [sample.clock_mhz for sample in self._looks_at_work() if sample.clock_mhz is not None]

    def _looks_at_work(self) -> list[Sample]:
        """Keep samples of a busy GPU: an idle one lowers its clock, which is not a sign of trouble.

        Without reasons idleness is not told, and the looks between first and last stand for work.
        """
        looks: Sequence[Sample] = self.samples
        if all(sample.clock_reasons is None for sample in looks):
            looks = looks[1:-1]
        return [sample for sample in looks if _IDLE not in (sample.clock_reasons or ())]


class Watch:
    """A watch that goes on, in a thread of its own, until it is stopped. Made by a `Monitor`."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._stopping = threading.Event()
        self._own_pids = own_pids(monitor.worker_pid)
        self._gpu_pids = monitor.gpu_pids()
        self._samples = [self._monitor.look(self._own_pids)]
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)
        self._thread.start()

    @property
    def trace(self) -> Trace:
        """What has been seen so far."""
        return Trace(tuple(self._samples), self._gpu_pids, self._monitor.worker_pid, self._own_pids)

    def stop(self) -> Trace:
        """Look once more and end. Stopping again changes nothing."""
        if self._stopping.is_set():
            return self.trace
        self._stopping.set()
        self._thread.join(_LONGEST_LOOK_S)
        if self._thread.is_alive():  # the driver does not answer: asking once more would hang here
            return self.trace
        self._own_pids |= own_pids(self._monitor.worker_pid)  # a descendant's CPU time is ours from its birth
        self._samples.append(self._monitor.look(self._own_pids))
        gpu_pids = self._monitor.gpu_pids()
        if gpu_pids is not None:
            self._gpu_pids = gpu_pids | (self._gpu_pids or frozenset())
        return self.trace

    def _watch(self) -> None:
        while not self._stopping.wait(self._monitor.interval_s):
            self._samples.append(self._monitor.look(self._own_pids))


@dataclass(frozen=True)
class Monitor:
    """Looks at a device (its UUID; None for the CPU alone) and at who else uses the machine."""

    nvml: Nvml
    uuid: str | None
    worker_pid: int
    interval_s: float = 0.5
    clock: Callable[[], float] = time.monotonic

    def start(self) -> Watch:
        return Watch(self)

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """Watch what happens inside; the `trace` of the watch is complete afterwards."""
        watch = self.start()
        try:
            yield watch
        finally:
            watch.stop()

    def look(self, pids: frozenset[int]) -> Sample:
        """Return the conditions now. CPU time of the processes `pids` is not that of others."""
        nvml, uuid = self.nvml, self.uuid
        others_cpu_s = None
        if psutil.pid_exists(self.worker_pid):  # what a process that is gone has used is nobody's
            others_cpu_s = machine_cpu_s() - sum(map(process_cpu_s, pids))
        at_s = self.clock()
        if uuid is None:
            return Sample(at_s, others_cpu_s)
        return Sample(
            at_s,
            others_cpu_s,
            nvml.sm_clock_mhz(uuid),
            nvml.power_w(uuid),
            nvml.temperature_c(uuid),
            nvml.clock_reasons(uuid),
        )

    def gpu_pids(self) -> frozenset[int] | None:
        """Return the processes with a context on the device. Listing them may take long."""
        processes = None if self.uuid is None else self.nvml.processes(self.uuid)
        return None if processes is None else frozenset(processes)


def machine_cpu_s() -> float:
    """Return the CPU time since boot of all processes of this machine, containers apart or not."""
    times = psutil.cpu_times()
    return float(sum(getattr(times, state, 0.0) for state in _BUSY_STATES))


def process_cpu_s(pid: int) -> float:
    """Return the CPU time of a process and of its children that have ended; 0 when it is gone itself."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def own_pids(worker_pid: int) -> frozenset[int]:
    """Return this process, the worker, and the descendants of both."""
    pids = _family(os.getpid())
    return pids if worker_pid in pids else pids | _family(worker_pid)


def _family(pid: int) -> frozenset[int]:
    try:
        return frozenset({pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))})
    except psutil.Error:
        return frozenset({pid})
