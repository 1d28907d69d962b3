"""The logic around CUDA timing, with a made-up device: what a card really does is for `gpu` tests."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from gqabench.harness.worker.timing import cross_check, kernel_time
from gqabench.harness.worker.timing.clock import CudaClock
from gqabench.harness.worker.timing.cuda_graph import CALLS_IN_GRAPH, NotCapturable
from gqabench.harness.workers.replies import CrossCheck

DEVICE = torch.device("cuda:0")


@pytest.fixture
def synchronised(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    seen: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", seen.append)
    return seen


class FakeCaptured:
    """A graph whose replays take 1, 2, 3, ... ms a call."""

    pool_bytes = 4096

    def __init__(self, call: Callable[[], Any], flush: Callable[[], Any], device: torch.device) -> None:
        self.output = call()
        self.num_replays = 0
        self.released = False
        FakeCaptured.latest = self

    def replay(self) -> list[float]:
        self.num_replays += 1
        return [float(self.num_replays)] * CALLS_IN_GRAPH

    def release(self) -> None:
        self.released = True

    latest: FakeCaptured


def no_kernels(*_: Any) -> kernel_time.KernelTime:
    return kernel_time.KernelTime(None, "torch.profiler")


def check(monkeypatch: pytest.MonkeyPatch, captured: Any, is_correct: bool = True) -> tuple[CrossCheck, bool]:
    monkeypatch.setattr(cross_check, "CapturedCalls", captured)
    monkeypatch.setattr(cross_check, "measure_kernel_time", no_kernels)
    order: list[str] = []
    checked = cross_check.cross_check(
        call=lambda: order.append("call"),
        rotate=lambda: order.append("rotate"),
        flush=lambda: order.append("flush"),
        is_correct=lambda _: is_correct,
        device=DEVICE,
    )
    assert order[:3] == ["rotate", "flush", "call"]  # the cache is emptied last
    return checked


def test_the_first_replay_is_not_counted(monkeypatch: pytest.MonkeyPatch, synchronised: list[object]) -> None:
    checked, could_capture = check(monkeypatch, FakeCaptured)
    assert could_capture
    assert checked.graph_samples_ms == [float(n) for n in (2, 3, 4, 5, 6) for _ in range(CALLS_IN_GRAPH)]
    assert checked.graph_latency_ms == 4.0
    assert checked.graph_pool_bytes == 4096
    assert checked.graph_reason is None
    assert FakeCaptured.latest.released
    assert checked.eager_ms > 0
    assert len(synchronised) >= 40


def test_a_graph_with_wrong_outputs_has_no_time(
    monkeypatch: pytest.MonkeyPatch, synchronised: list[object]
) -> None:
    checked, could_capture = check(monkeypatch, FakeCaptured, is_correct=False)
    assert could_capture
    assert checked.graph_latency_ms is checked.graph_samples_ms is None
    assert "wrong when it is replayed" in str(checked.graph_reason)
    assert FakeCaptured.latest.released


def test_what_cannot_be_captured_says_why(
    monkeypatch: pytest.MonkeyPatch, synchronised: list[object]
) -> None:
    def refuse(*_: Any) -> None:
        raise NotCapturable("RuntimeError: operation not permitted when stream is capturing")

    checked, could_capture = check(monkeypatch, refuse)
    assert not could_capture
    assert str(checked.graph_reason).startswith("cannot be captured: RuntimeError: operation not permitted")
    assert checked.graph_latency_ms is None


class FakeCupti(ModuleType):
    """Bindings that report two kernels and a memset for each flush of their buffers."""

    ActivityKind = SimpleNamespace(CONCURRENT_KERNEL=10, MEMCPY=1, MEMSET=2, DRIVER=4)

    def __init__(self) -> None:
        super().__init__("cupti.cupti")
        self.enabled: set[int] = set()
        self.completed: Callable[[list[Any]], None]

    def activity_register_callbacks(
        self, requested: Callable[[], tuple[int, int]], completed: Callable[[list[Any]], None]
    ) -> None:
        assert requested()[0] > 0
        self.completed = completed

    def activity_enable(self, kind: int) -> None:
        self.enabled.add(kind)

    def activity_disable(self, kind: int) -> None:
        self.enabled.remove(kind)

    def activity_flush_all(self, flag: int) -> None:
        assert flag == 1
        kinds_and_times = [(10, 0, 400_000), (4, 0, 9_000_000), (10, 500_000, 700_000), (2, 700_000, 710_000)]
        self.completed([SimpleNamespace(kind=kind, start=a, end=b) for kind, a, b in kinds_and_times])


@pytest.fixture
def cupti(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCupti]:
    fake, package = FakeCupti(), ModuleType("cupti")
    package.cupti = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupti", package)
    monkeypatch.setitem(sys.modules, "cupti.cupti", fake)
    monkeypatch.setattr(kernel_time, "find_spec", lambda name: name == "cupti")
    yield fake
    assert fake.enabled == set()


def test_cupti_sums_kernels_copies_and_fills(cupti: FakeCupti, synchronised: list[object]) -> None:
    seen = kernel_time.measure_kernel_time(lambda: None, lambda: None, DEVICE)
    assert (seen.ms, seen.source) == (pytest.approx(0.61), "cupti")


def test_where_cupti_refuses_the_profiler_is_asked(
    cupti: FakeCupti, synchronised: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED")

    monkeypatch.setattr(cupti, "activity_register_callbacks", refuse)
    monkeypatch.setattr(kernel_time, "_by_profiler", lambda call, device: 250_000)
    seen = kernel_time.measure_kernel_time(lambda: None, lambda: None, DEVICE)
    assert seen == kernel_time.KernelTime(0.25, "torch.profiler")


def test_where_cupti_tells_of_no_kernel_the_profiler_is_asked(
    cupti: FakeCupti, synchronised: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cupti, "activity_flush_all", lambda flag: None)
    monkeypatch.setattr(kernel_time, "_by_profiler", lambda call, device: 250_000)
    seen = kernel_time.measure_kernel_time(lambda: None, lambda: None, DEVICE)
    assert seen == kernel_time.KernelTime(0.25, "torch.profiler")


def test_no_kernel_seen_is_no_time(synchronised: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_time, "find_spec", lambda name: None)
    monkeypatch.setattr(kernel_time, "_by_profiler", lambda call, device: 0)
    assert kernel_time.measure_kernel_time(lambda: None, lambda: None, DEVICE).ms is None


class FakeEvent:
    """An event of a device that has reached it, or not, when it is asked."""

    is_reached = False

    def __init__(self, **_: Any) -> None: ...

    def record(self) -> None: ...

    def query(self) -> bool:
        return self.is_reached

    def elapsed_time(self, other: FakeEvent) -> float:
        return 1.5


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, synchronised: list[object]) -> CudaClock:
    sleeps: list[int] = []

    class Device:
        def __init__(self, _: object) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(
        "gqabench.harness.worker.timing.clock.CacheFlush", lambda device: SimpleNamespace(buffer=None)
    )
    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "_sleep", sleeps.append)
    clock = CudaClock("cuda:0")
    clock.sleeps = sleeps  # type: ignore[attr-defined]
    return clock


def test_the_sleep_follows_what_the_host_needs(clock: CudaClock) -> None:
    def slow_to_queue() -> None:
        time.sleep(0.0003)

    assert clock.time_calls(slow_to_queue, 3, lambda: None) == [1.5] * 3
    first, *later = clock.sleeps  # type: ignore[attr-defined]
    assert first == CudaClock._SHORTEST_SLEEP_CYCLES
    # 0.3 ms at 2 GHz, twice over; a busy machine may have slept longer.
    assert all(1_200_000 <= cycles <= CudaClock._LONGEST_SLEEP_CYCLES for cycles in later)
    assert clock.num_exposed == 0


def test_calls_that_the_device_waited_for_are_counted(
    clock: CudaClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeEvent, "is_reached", True)
    clock.time_calls(lambda: None, 4, lambda: None)
    assert clock.num_exposed == 4
