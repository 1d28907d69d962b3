"""What the worker does around calls, and in which order, without a stopwatch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
import torch

from gqabench.attention_impls import AttentionProblem
from gqabench.harness.worker.open_case import OpenCase
from gqabench.harness.worker.session import Session
from gqabench.harness.worker.subjects.subject import UNSEEN_VARIANT
from gqabench.harness.worker.timing.clock import CpuClock

PROBLEM = AttentionProblem(
    batch_size=1, q_len=1, kv_len=32, num_q_heads=4, num_kv_heads=2, head_dim=16, dtype="float32",
    device="cpu",
)  # fmt: skip


class Watched(CpuClock):
    """A clock that tells when it flushes, and when the calls come."""

    def __init__(self, device: str, events: list[str]) -> None:
        super().__init__(device)
        self._events = events
        self.flush = lambda: events.append("flush")  # type: ignore[assignment]

    def time_calls(
        self, call: Callable[[], object], num_calls: int, before_each: Callable[[], None]
    ) -> list[float]:
        def told() -> object:
            self._events.append("call")
            return call()

        return super().time_calls(told, num_calls, before_each)


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch, events: list[str]) -> OpenCase:
    monkeypatch.setattr("gqabench.harness.worker.session.make_clock", lambda device: Watched(device, events))
    session = Session()
    session.open_case(asdict(PROBLEM), "decode", 64, 0, 1e9)
    case = session.case
    case.prepare("one", "grouped_matmul")
    rotate = case._rotate

    def told_rotate(arm: str) -> None:
        events.append("new queries")
        rotate(arm)

    monkeypatch.setattr(case, "_rotate", told_rotate)
    events.clear()
    return case


def test_before_each_cold_call_come_new_queries_and_a_flush(case: OpenCase, events: list[str]) -> None:
    assert len(case.measure("one", 3, is_cold=True).samples_ms) == 3
    assert events == ["new queries", "flush", "call"] * 3


def test_warm_calls_have_no_flush(case: OpenCase, events: list[str]) -> None:
    assert len(case.measure("one", 2, is_cold=False).samples_ms) == 2
    assert events == ["new queries", *["new queries", "call"] * 2], "one call warms up, unclocked"


@pytest.mark.parametrize(("is_cold", "num_untimed"), [(True, 1), (False, 3)])
def test_a_long_slice_begins_with_calls_that_are_not_timed(
    case: OpenCase, monkeypatch: pytest.MonkeyPatch, is_cold: bool, num_untimed: int
) -> None:
    num_calls = 0
    prepared = case._arms["one"]
    run = prepared.call.run

    def count() -> object:
        nonlocal num_calls
        num_calls += 1
        return run()

    prepared.call = replace(prepared.call, run=count)
    assert len(case.measure("one", 5, is_cold=is_cold).samples_ms) == 5
    assert num_calls == 5 + num_untimed


def test_the_last_check_is_on_queries_that_no_call_had(
    case: OpenCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.measure("one", 5, is_cold=True)
    written = []
    write = case.subject.write_queries
    monkeypatch.setattr(
        case.subject, "write_queries", lambda variant: (written.append(variant), write(variant))
    )
    case.verify("one")
    assert written == [UNSEEN_VARIANT]


def test_new_queries_for_energy_come_once_in_many_calls(case: OpenCase, events: list[str]) -> None:
    num_calls = case.run_for("one", 0.05).num_calls
    assert events.count("new queries") == -(-num_calls // 32)
    assert "flush" not in events


class Output:
    """An output whose freeing takes a second by the clock."""

    def __init__(self, clock: list[int]) -> None:
        self._clock = clock

    def __del__(self) -> None:
        self._clock[0] += 10**9


def test_an_output_is_freed_outside_the_timed_part(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = [0]

    def call() -> Output:
        now_ns[0] += 10**6
        return Output(now_ns)

    monkeypatch.setattr("gqabench.harness.worker.timing.clock.time.perf_counter_ns", lambda: now_ns[0])
    assert CpuClock("cpu").time_calls(call, 3, lambda: None) == [1.0] * 3
    assert now_ns[0] > 3 * 10**9


@pytest.mark.parametrize(("index", "current"), [("cuda:1", 1), ("cuda:0", 0), ("cuda", 0)])
def test_the_gpu_of_a_case_is_the_current_one(
    monkeypatch: pytest.MonkeyPatch, index: str, current: int
) -> None:
    made_current: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", made_current.append)
    monkeypatch.setattr("gqabench.harness.worker.session.require_memory_for_inputs", lambda problem: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # far enough: there is no GPU here
        Session().open_case(asdict(PROBLEM) | {"device": index}, "decode", 64, 0, 1e9)
    assert made_current == [current]
