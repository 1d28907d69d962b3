from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gqabench.harness.cases.case import Arm, MeasureSettings
from gqabench.harness.measure.rounds import TimedArm, calls_per_slice, measure_in_rounds
from gqabench.harness.workers.replies import CallTimes
from gqabench.results.statistics.samples import median_interval

ARMS = [TimedArm(Arm(name), "cold") for name in "abc"]


def settings(**changes: float) -> MeasureSettings:
    values = {
        "target_interval": 0.01, "min_rounds": 6, "seconds_per_arm": 1.0, "slice_ms": 10.0, "timeout_s": 1.0,
        "max_check_gflop": 1.0, "caches": ("cold",), "roofs": False, "energy": False,
    }  # fmt: skip
    return MeasureSettings(name="test", **values | changes)  # type: ignore[arg-type]


class FakeMachine:
    """Time passes only where an arm is measured; each call takes its arm's next duration."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, durations_ms: dict[str, Iterator[float]]) -> None:
        self.now_s = 0.0
        self.order: list[str] = []
        self._durations_ms = durations_ms
        monkeypatch.setattr("gqabench.harness.measure.rounds.time.monotonic", lambda: self.now_s)

    def measure(self, timed: TimedArm, num_calls: int) -> CallTimes:
        self.order.append(timed.arm.impl)
        samples_ms = [next(self._durations_ms[timed.arm.impl]) for _ in range(num_calls)]
        self.now_s += sum(samples_ms) / 1e3
        return CallTimes(samples_ms=samples_ms)


def steady(value_ms: float) -> Iterator[float]:
    while True:
        yield value_ms


def noisy(value_ms: float) -> Iterator[float]:
    while True:
        yield value_ms
        yield 2 * value_ms


def test_steady_arms_stop_after_the_least_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeMachine(monkeypatch, {"a": steady(10), "b": steady(5), "c": steady(100)})
    measured = measure_in_rounds(ARMS, settings(), 0, machine.measure)
    assert [len(measured[one].samples_ms) for one in ARMS] == [
        6,
        12,
        6,
    ]  # slices of 10 ms: 1, 2 and 1 calls


def test_every_round_has_every_arm_once_in_changing_order(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeMachine(monkeypatch, {one.arm.impl: steady(10) for one in ARMS})
    measure_in_rounds(ARMS, settings(min_rounds=20), 0, machine.measure)
    rounds = [tuple(machine.order[i : i + 3]) for i in range(0, len(machine.order), 3)]
    assert len(rounds) == 21  # the first warms up
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len(set(rounds)) >= 4


def test_the_order_follows_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = []
    for seed in (1, 1, 2):
        machine = FakeMachine(monkeypatch, {one.arm.impl: steady(10) for one in ARMS})
        measure_in_rounds(ARMS, settings(min_rounds=20), seed, machine.measure)
        orders.append(machine.order)
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("noisy_arm", ["a", "b", "c"])
def test_one_noisy_arm_keeps_all_going_until_the_budget_is_spent(
    monkeypatch: pytest.MonkeyPatch, noisy_arm: str
) -> None:
    steady_arms = {arm: steady(10) for arm in "abc"}
    machine = FakeMachine(monkeypatch, steady_arms | {noisy_arm: noisy(10)})
    measured = measure_in_rounds(ARMS, settings(seconds_per_arm=0.5), 0, machine.measure)
    assert 1.5 <= machine.now_s <= 1.7  # three arms of half a second, then the round in hand
    assert len(measured[ARMS[0]].samples_ms) == len(measured[ARMS[1]].samples_ms) > 6


def test_the_least_rounds_are_kept_beyond_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeMachine(monkeypatch, {one.arm.impl: noisy(5000) for one in ARMS})
    measured = measure_in_rounds(ARMS, settings(), 0, machine.measure)
    assert [len(measured[one].samples_ms) for one in ARMS] == [6, 6, 6]


def test_a_fast_arm_with_samples_in_plenty_does_not_end_the_slow_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast, slow = ARMS[:2]
    machine = FakeMachine(monkeypatch, {"a": noisy(0.1), "b": noisy(30)})
    measured = measure_in_rounds(
        [fast, slow], settings(seconds_per_arm=10, min_rounds=20), 0, machine.measure
    )
    assert 20 <= machine.now_s <= 20.2  # the whole budget: the slow arm's interval stays wide
    assert len(measured[slow].samples_ms) > 300
    num_full_slices = 2000 // 67  # 0.15 ms a call in slices of 10 ms, until there are 2000
    single = len(measured[slow].samples_ms) - (num_full_slices + 1)  # then one in each round
    assert len(measured[fast].samples_ms) == (num_full_slices + 1) * 67 + single


def test_samples_in_plenty_of_all_arms_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeMachine(monkeypatch, {one.arm.impl: noisy(0.1) for one in ARMS})
    measured = measure_in_rounds(ARMS, settings(seconds_per_arm=100), 0, machine.measure)
    assert all(2000 <= len(samples.samples_ms) < 2100 for samples in measured.values())
    assert machine.now_s < 2


@pytest.mark.parametrize(("call_ms", "expected"), [(1.0, 20), (3.0, 7), (19.0, 1), (1000.0, 1), (1e-9, 100)])
def test_calls_fill_a_slice(call_ms: float, expected: int) -> None:
    assert calls_per_slice(call_ms, slice_ms=20.0) == expected


@pytest.mark.parametrize(("num_arms", "least"), [(1, 0.88), (4, 0.92)])
def test_stopping_when_narrow_costs_few_points_of_coverage(
    monkeypatch: pytest.MonkeyPatch, num_arms: int, least: float
) -> None:
    num_trials, generator = 600 // num_arms, np.random.default_rng(num_arms)
    arms = [TimedArm(Arm(str(number)), "cold") for number in range(num_arms)]
    num_covering = num_rounds = 0
    for trial in range(num_trials):
        noise = generator.lognormal(sigma=0.02, size=(num_arms, 1000)) * 10.0
        machine = FakeMachine(
            monkeypatch, {one.arm.impl: iter(row) for one, row in zip(arms, noise, strict=True)}
        )
        measured = measure_in_rounds(arms, settings(seconds_per_arm=9.0), trial, machine.measure)
        for result in measured.values():
            interval = median_interval(result.samples_ms)
            assert interval is not None
            num_covering += interval.low <= 10.0 <= interval.high
            num_rounds += len(result.samples_ms)
    assert least <= num_covering / (num_trials * num_arms) <= 0.98
    assert num_rounds > 10 * num_trials * num_arms, "not decided at the first looks, or nothing was shown"
