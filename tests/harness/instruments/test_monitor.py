from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from gqabench.harness.instruments import monitor as monitor_module
from gqabench.harness.instruments.monitor import (
    Monitor,
    Sample,
    Trace,
    machine_cpu_s,
    own_pids,
    process_cpu_s,
)
from gqabench.harness.machine.nvml import NullNvml

SPIN = "import time; ends = time.monotonic() + 60\nwhile time.monotonic() < ends: pass"
GPU = "GPU-0"


class FakeNvml(NullNvml):
    """A GPU at work, whose clock is what the test says next."""

    def __init__(self, clocks: list[int] | None = None, pids: dict[int, int | None] | None = None) -> None:
        super().__init__()
        self._clocks = clocks or [1980]
        self._pids = pids
        self.num_looks = 0

    def sm_clock_mhz(self, uuid: str) -> int | None:
        assert uuid == GPU
        self.num_looks += 1
        return self._clocks[min(self.num_looks, len(self._clocks)) - 1]

    def temperature_c(self, uuid: str) -> int | None:
        return 50 + self.num_looks

    def clock_reasons(self, uuid: str) -> tuple[str, ...] | None:
        return ("sw_power_cap",)

    def processes(self, uuid: str) -> dict[int, int | None] | None:
        return self._pids


def samples(*clocks: int | None, reasons: list[tuple[str, ...] | None] | None = None) -> tuple[Sample, ...]:
    told = reasons or [()] * len(clocks)
    return tuple(
        Sample(float(at), clock_mhz=clock, clock_reasons=why)
        for at, (clock, why) in enumerate(zip(clocks, told, strict=True))
    )


def cpu(*looks: tuple[float, float | None]) -> tuple[Sample, ...]:
    return tuple(Sample(at_s, others_cpu_s) for at_s, others_cpu_s in looks)


def test_nothing_seen_is_nothing_known() -> None:
    names = ("clock_mhz", "power_w", "temperature_c", "throttle_reasons", "background_load")
    fields = dict.fromkeys(names)
    for trace in (Trace(), Trace((Sample(0.0),)), Trace((Sample(0.0), Sample(1.0)))):
        assert trace.record_fields() == fields
        assert trace.clock_range_mhz is None
        assert trace.gpu_other_processes is None


def test_the_clock_is_the_median_and_its_range_what_it_moved_by() -> None:
    trace = Trace(samples(1900, 1980, 1950))
    assert (trace.clock_mhz, trace.clock_range_mhz) == (1950.0, 80.0)
    trace = Trace(samples(1900, None, 1980, 1950, 1960))
    assert (trace.clock_mhz, trace.clock_range_mhz) == (1955.0, 80.0)
    trace = Trace(samples(1900))
    assert (trace.clock_mhz, trace.clock_range_mhz) == (1900.0, 0.0)


def test_the_low_clock_of_an_idle_gpu_is_no_change_of_clock() -> None:
    idle, work = ("gpu_idle",), ()
    trace = Trace(samples(345, 1980, 1965, 1980, 345, reasons=[idle, work, work, work, idle]))
    assert (trace.clock_mhz, trace.clock_range_mhz) == (1980.0, 15.0)
    assert trace.throttle_reasons == []
    trace = Trace(samples(345, 345, reasons=[idle, idle]))
    assert (trace.clock_mhz, trace.clock_range_mhz) == (None, None)


def test_where_reasons_are_hidden_the_first_and_last_look_do_not_stand_for_work() -> None:
    trace = Trace(samples(345, 1980, 1965, 345, reasons=[None] * 4))
    assert (trace.clock_mhz, trace.clock_range_mhz) == (1972.5, 15.0)


def test_throttle_reasons_are_of_any_look_without_the_harmless() -> None:
    reasons: list[tuple[str, ...] | None] = [
        ("gpu_idle",),
        ("applications_clocks_setting", "sw_thermal_slowdown"),
        None,
        ("sw_power_cap", "sw_thermal_slowdown"),
    ]
    assert Trace(samples(1, 1, 1, 1, reasons=reasons)).throttle_reasons == [
        "sw_thermal_slowdown",
        "sw_power_cap",
    ]
    assert Trace(samples(1, 1, reasons=[(), ("gpu_idle",)])).throttle_reasons == []
    assert Trace(samples(1, 1, reasons=[None, None])).throttle_reasons is None


def test_the_temperature_is_the_highest() -> None:
    looks = [Sample(0.0, temperature_c=41), Sample(1.0), Sample(2.0, temperature_c=63)]
    assert Trace((*looks, Sample(3.0, temperature_c=60))).temperature_c == 63.0


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([(10.0, 100.0), (12.0, 103.0)], 1.5),
        ([(10.0, 100.0), (11.0, 109.0), (14.0, 110.0)], 2.5),  # the mean, not the busiest
        ([(10.0, 100.0), (12.0, 99.9)], 0.0),  # ticks that were counted late
        ([(10.0, 100.0)], None),
        ([(10.0, 100.0), (10.2, 101.0)], None),  # too short for ticks of 10 ms
        ([(10.0, 100.0), (11.0, 100.5), (12.0, None)], 0.5),  # the worker was gone at the end
        ([(10.0, None), (11.0, None)], None),
    ],
)
def test_the_background_load_is_what_others_used_per_second(
    looks: list[tuple[float, float | None]], expected: float | None
) -> None:
    assert Trace(cpu(*looks)).background_load == expected


@pytest.mark.parametrize(
    ("gpu_pids", "expected"),
    [
        (None, None),
        ({7}, False),
        ({7, 8}, False),
        ({7, 9}, True),
        (set(), None),  # a container hides them all, the worker too
        ({4001}, None),  # or shows the worker by another number
    ],
)
def test_other_processes_on_the_gpu(gpu_pids: set[int] | None, expected: bool | None) -> None:
    told = None if gpu_pids is None else frozenset(gpu_pids)
    assert Trace((), told, worker_pid=7, own_pids=frozenset({7, 8})).gpu_other_processes is expected


def test_a_watch_looks_at_once_then_by_the_interval_and_once_more_at_the_end() -> None:
    nvml = FakeNvml([345, 1980, 1980, 1980], {os.getpid(): None})
    with Monitor(nvml, GPU, os.getpid(), interval_s=0.02).watching() as watch:
        assert len(watch.trace.samples) >= 1
        time.sleep(0.2)
    trace = watch.trace
    times = [sample.at_s for sample in trace.samples]
    assert times == sorted(times)
    assert 3 <= len(times) <= 12
    assert trace.clock_mhz == 1980.0
    assert trace.clock_range_mhz == 1980 - 345
    assert trace.throttle_reasons == ["sw_power_cap"]
    assert trace.gpu_other_processes is False


def test_a_watch_that_was_stopped_looks_no_more() -> None:
    nvml = FakeNvml()
    watch = Monitor(nvml, GPU, os.getpid(), interval_s=0.01).start()
    trace = watch.stop()
    assert watch.stop() == trace
    num_looks = nvml.num_looks
    time.sleep(0.05)
    assert nvml.num_looks == num_looks == 2
    assert watch.trace == trace


def test_what_goes_wrong_inside_ends_the_watch() -> None:
    def watched() -> Iterator[Any]:
        with Monitor(NullNvml(), None, os.getpid(), interval_s=0.01).watching() as watch:
            yield watch
            raise KeyError

    inside = watched()
    watch = next(inside)
    with pytest.raises(KeyError):
        next(inside)
    assert len(watch.trace.samples) >= 2
    assert "monitor" not in {thread.name for thread in threading.enumerate()}


def test_it_sleeps_between_looks() -> None:
    began = time.process_time()
    with Monitor(FakeNvml(), GPU, os.getpid(), interval_s=0.1).watching():
        time.sleep(0.5)
    assert time.process_time() - began < 0.2


def test_a_driver_that_hangs_does_not_hang_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    class Hanging(FakeNvml):
        def temperature_c(self, uuid: str) -> int | None:
            if threading.current_thread().name == "monitor":
                release.wait(10)
            return 40

    monkeypatch.setattr(monitor_module, "_LONGEST_LOOK_S", 0.05)
    watch = Monitor(Hanging(), GPU, os.getpid(), interval_s=0.01).start()
    time.sleep(0.05)
    assert len(watch.stop().samples) == 1
    release.set()


@contextmanager
def spinning() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", SPIN]) as process:
        try:
            yield process
        finally:
            process.kill()


def watch_for(seconds: float, worker_pid: int) -> Trace:
    with Monitor(NullNvml(), None, worker_pid, interval_s=0.1).watching() as watch:
        time.sleep(seconds)
    return watch.trace


def test_the_load_of_others_is_the_machine_s_less_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU times that are made up: 3 cores busy, of which the worker had 2 and this process a half."""
    now = {"machine": 1000.0, 1: 50.0, 2: 500.0}

    def process(pid: int) -> Any:
        times = SimpleNamespace(user=now[pid] - 3, system=1.0, children_user=1.0, children_system=1.0)
        return SimpleNamespace(cpu_times=lambda: times)

    states = SimpleNamespace(user=0.0, nice=1.0, system=0.0, irq=2.0, softirq=3.0, idle=999.0, steal=99.0)

    def machine() -> Any:
        states.user = now["machine"] - 6
        return states

    fake = SimpleNamespace(
        cpu_times=machine, Process=process, pid_exists=lambda pid: True, Error=psutil.Error
    )
    monkeypatch.setattr(monitor_module, "psutil", fake)
    clock = iter([10.0, 14.0])
    monitor = Monitor(NullNvml(), None, worker_pid=2, clock=lambda: next(clock))
    before = monitor.look(frozenset({1, 2}))
    now |= {"machine": 1012.0, 1: 52.0, 2: 508.0}
    after = monitor.look(frozenset({1, 2}))
    assert before.others_cpu_s == 1000 - 550
    assert Trace((before, after)).background_load == 0.5


def test_the_worker_s_own_work_is_no_background_load() -> None:
    """The same process as the worker and as a stranger: it keeps nearly a core busy, whatever else runs."""
    with spinning() as worker:
        time.sleep(0.2)
        began, machine_s, worker_s = time.monotonic(), machine_cpu_s(), process_cpu_s(worker.pid)
        trace = watch_for(1.0, worker.pid)
        seconds = time.monotonic() - began
        all_cores = (machine_cpu_s() - machine_s) / seconds
        worker_cores = (process_cpu_s(worker.pid) - worker_s) / seconds
    assert trace.background_load is not None
    if worker_cores < 0.2:
        pytest.skip("neighbours leave the worker so little that its work does not show")
    assert trace.background_load == pytest.approx(all_cores - worker_cores, abs=0.15)


def test_descendants_are_ours() -> None:
    """A worker may start helpers; workers of other environments belong to this process."""
    helper = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    with subprocess.Popen([sys.executable, "-c", helper]) as worker:
        try:
            ends = time.monotonic() + 10
            while not (children := psutil.Process(worker.pid).children()) and time.monotonic() < ends:
                time.sleep(0.02)
            pids = own_pids(worker.pid)
            assert {os.getpid(), worker.pid, children[0].pid} <= pids
            assert os.getppid() not in pids
            children[0].kill()
        finally:
            worker.kill()


def test_a_worker_that_is_gone_leaves_what_was_seen_before() -> None:
    with spinning() as worker:
        with Monitor(NullNvml(), None, worker.pid, interval_s=0.05).watching() as watch:
            time.sleep(0.5)
            worker.kill()
            worker.wait()
            time.sleep(0.15)
        trace = watch.trace
    assert trace.samples[0].others_cpu_s is not None
    assert trace.samples[-1].others_cpu_s is None
    assert trace.background_load is not None  # of the time before


def test_a_worker_that_never_was_gives_nulls() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as worker:
        worker.wait()
    trace = watch_for(0.3, worker.pid)
    assert trace.background_load is None
    assert len(trace.samples) >= 2
