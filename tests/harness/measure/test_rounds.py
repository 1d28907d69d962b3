from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from gqabench.harness.cases.case import Arm, MeasureSettings
from gqabench.harness.measure.rounds import TimedArm, measure_in_rounds
from gqabench.harness.workers.replies import CallTimes
from gqabench.results.statistics.samples import median_interval

ARMS = [TimedArm(Arm(name), "cold") for name in "abc"]


def settings(**changes: float) -> MeasureSettings:
    values = {
        "target_interval": 0.01, "unstable_interval": 0.05, "min_rounds": 6, "min_samples": 6,
        "seconds_per_arm": 1.0, "slice_ms": 10.0, "timeout_s": 1.0, "max_check_gflop": 1.0,
        "caches": ("cold",), "roofs": False, "energy": False,
    }  # fmt: skip
    return MeasureSettings(name="test", **values | changes)  # type: ignore[arg-type]


class FakeMachine:
    """Time passes only where an arm is measured; each call takes its arm's next duration."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        durations_ms: dict[str, Iterator[float]],
        slowing: Callable[[float], float] = lambda now_s: 1.0,
    ) -> None:
        self.now_s = 0.0
        self.order: list[str] = []
        self.began_s: dict[str, list[float]] = {arm: [] for arm in durations_ms}
        self._durations_ms = durations_ms
        self._slowing = slowing
        monkeypatch.setattr("gqabench.harness.measure.rounds.time.monotonic", lambda: self.now_s)

    def measure(self, timed: TimedArm, num_calls: int) -> CallTimes:
        arm = timed.arm.impl
        self.order.append(arm)
        self.began_s[arm].append(self.now_s)
        samples_ms = []
        for _ in range(num_calls):
            samples_ms.append(next(self._durations_ms[arm]) * self._slowing(self.now_s))
            self.now_s += samples_ms[-1] / 1e3
        return CallTimes(samples_ms=samples_ms)


def steady(value_ms: float) -> Iterator[float]:
    while True:
        yield value_ms


def noisy(value_ms: float) -> Iterator[float]:
    while True:
        yield value_ms
        yield 2 * value_ms


def scattering(value_ms: float, sigma: float, seed: int) -> Iterator[float]:
    generator = np.random.default_rng(seed)
    while True:
        yield value_ms * float(np.exp(sigma * generator.standard_normal()))


def half_interval(samples_ms: list[float]) -> float:
    interval = median_interval(samples_ms)
    assert interval is not None
    return interval.relative_half_width(float(np.median(samples_ms)))


def test_steady_arms_stop_after_the_least_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeMachine(monkeypatch, {"a": steady(10), "b": steady(5), "c": steady(100)})
    measured = measure_in_rounds(ARMS, settings(), 0, machine.measure)
    assert [measured[one].slice_sizes for one in ARMS] == [[6] * 6, [6] * 6, [1] * 6]
    assert [len(measured[one].samples_ms) for one in ARMS] == [36, 36, 6]


def test_every_round_has_every_arm_once_in_changing_order(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeMachine(monkeypatch, {one.arm.impl: steady(10) for one in ARMS})
    measure_in_rounds(ARMS, settings(min_rounds=20), 0, machine.measure)
    warm_up, timed = machine.order[:3], machine.order[3:]
    assert sorted(warm_up) == ["a", "b", "c"]
    rounds = [tuple(timed[i : i + 3]) for i in range(0, len(timed), 3)]
    assert len(rounds) == 20
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
def test_a_noisy_arm_gets_the_time_that_narrow_ones_leave(
    monkeypatch: pytest.MonkeyPatch, noisy_arm: str
) -> None:
    durations = {arm: steady(10) for arm in "abc"} | {noisy_arm: noisy(10)}
    machine = FakeMachine(monkeypatch, durations)
    measured = measure_in_rounds(ARMS, settings(seconds_per_arm=0.8), 0, machine.measure)
    assert 2.4 <= machine.now_s <= 2.7, "three shares of 0.8 s, and the turn in hand"
    numbers = {one.arm.impl: len(measured[one].samples_ms) for one in ARMS}
    of_noisy = numbers.pop(noisy_arm)
    assert max(numbers.values()) - min(numbers.values()) <= 6, "narrow ones go on alike"
    assert of_noisy > 1.15 * max(numbers.values()), "15 ms a call as against 10, and still more calls"


def test_the_least_rounds_are_kept_beyond_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeMachine(monkeypatch, {one.arm.impl: noisy(5000) for one in ARMS})
    measured = measure_in_rounds(ARMS, settings(), 0, machine.measure)
    assert [len(measured[one].samples_ms) for one in ARMS] == [6, 6, 6]
    assert len(machine.order) == 18, "of slow arms the first call counts"


@pytest.mark.parametrize(
    ("call_ms", "num_calls"),
    [(80, 1), (50, 2), (24, 4), (18, 4), (16, 5), (14, 6)],
    ids=lambda value: str(value),
)
def test_the_call_that_is_not_timed_is_part_of_the_turn(
    call_ms: float, num_calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of turns of five and more: seven turns of 0.1 s are an arm's share."""
    machine = FakeMachine(monkeypatch, {"a": noisy(call_ms)})
    of_one_arm = settings(seconds_per_arm=0.7, min_rounds=7)
    measured = measure_in_rounds(ARMS[:1], of_one_arm, 0, machine.measure)[ARMS[0]]
    assert measured.slice_sizes[:3] == [num_calls] * 3


def test_slow_arms_take_their_least_number_and_fast_ones_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    fast_ms, slow_ms = {"a": 5, "b": 6, "c": 10, "d": 20, "e": 50}, {"f": 300, "g": 1200, "h": 2500}
    arms = [TimedArm(Arm(name), "cold") for name in fast_ms | slow_ms]
    durations = {
        name: scattering(value, 0.1, seed) for seed, (name, value) in enumerate((fast_ms | slow_ms).items())
    }
    machine = FakeMachine(monkeypatch, durations)
    of_standard = settings(min_rounds=7, min_samples=40, seconds_per_arm=0.8, slice_ms=20)
    measured = measure_in_rounds(arms, of_standard, 0, machine.measure)
    lockstep_s = 2 * sum(slow_ms.values()) / 1e3 + 7 * (sum(slow_ms.values()) / 1e3 + 5 * 0.025)
    assert machine.now_s < lockstep_s, "what one slice an arm in each round took"
    numbers = {one.arm.impl: len(samples.samples_ms) for one, samples in measured.items()}
    assert [numbers[name] for name in slow_ms] == [7, 7, 7]
    assert min(numbers[name] for name, value in fast_ms.items() if value <= 20) >= 40
    assert all(half_interval(measured[arms[place]].samples_ms) < 0.06 for place in range(4))


def test_the_calls_of_a_slow_arm_spread_over_all_of_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = {"a": noisy(5), "b": noisy(8), "c": steady(400)}
    machine = FakeMachine(monkeypatch, durations)
    measure_in_rounds(ARMS, settings(), 0, machine.measure)
    slow_began = machine.began_s["c"]
    gaps = np.diff([*slow_began, machine.now_s])
    assert len(slow_began) == 6
    assert max(gaps) < 2 * float(np.mean(gaps))
    for number in range(5):
        between = [one for one in machine.began_s["a"] if slow_began[number] < one < slow_began[number + 1]]
        assert between, "the fast ones have turns between any two of its calls"


@pytest.mark.parametrize(
    "slowing",
    [lambda now_s: 1 + 0.04 * now_s, lambda now_s: 1 + 0.1 * (now_s > 1.5), lambda now_s: 1.2 - 0.03 * now_s],
    ids=["slower and slower", "a step", "faster and faster"],
)
def test_drift_hits_all_arms_alike(
    monkeypatch: pytest.MonkeyPatch, slowing: Callable[[float], float]
) -> None:
    """A narrow arm, one that stays wide and a slow one drift by 20 %: their ratios stay as they are."""
    durations = {"a": steady(10), "b": scattering(20, 0.2, 1), "c": steady(400)}
    machine = FakeMachine(monkeypatch, durations, slowing)
    of_standard = settings(min_rounds=7, min_samples=40, seconds_per_arm=1.0, slice_ms=20)
    measured = measure_in_rounds(ARMS, of_standard, 0, machine.measure)
    medians = [float(np.median(measured[one].samples_ms)) for one in ARMS]
    assert medians[2] / medians[0] == pytest.approx(40, rel=0.03)
    assert medians[1] / medians[0] == pytest.approx(2, rel=0.06)  # 3 % of it is its own scatter


def test_a_fast_arm_with_samples_in_plenty_does_not_end_the_slow_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast, slow = ARMS[:2]
    machine = FakeMachine(monkeypatch, {"a": noisy(0.1), "b": noisy(30)})
    measured = measure_in_rounds(
        [fast, slow], settings(seconds_per_arm=10, min_rounds=20), 0, machine.measure
    )
    assert 20 <= machine.now_s <= 20.5, "the whole budget: the slow arm's interval stays wide"
    assert len(measured[slow].samples_ms) > 300
    sizes = measured[fast].slice_sizes
    assert len(measured[fast].samples_ms) == sum(sizes)
    full_after = int(np.searchsorted(np.cumsum(sizes), 2000)) + 1
    assert set(sizes[full_after:]) == {1}, "one in each further round"
    assert len(sizes) == len(measured[slow].slice_sizes)


def test_a_fast_arm_whose_first_call_was_disturbed_is_not_taken_for_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disturbed = chain([600.0], scattering(5, 0.1, 0))
    machine = FakeMachine(monkeypatch, {"a": disturbed, "b": noisy(10)})
    measured = measure_in_rounds(ARMS[:2], settings(min_samples=40), 0, machine.measure)
    assert len(measured[ARMS[0]].samples_ms) >= 40
    assert max(measured[ARMS[0]].samples_ms) < 100


def test_samples_in_plenty_of_all_arms_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeMachine(monkeypatch, {one.arm.impl: noisy(0.1) for one in ARMS})
    measured = measure_in_rounds(ARMS, settings(seconds_per_arm=100), 0, machine.measure)
    assert all(2000 <= len(samples.samples_ms) < 2200 for samples in measured.values())
    assert machine.now_s < 2


def test_what_others_took_is_averaged_over_the_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeMachine(monkeypatch, {"a": noisy(10)})
    cores = iter([{}] + [{"b": 1.0, "c": 0.04}, {"c": 0.04}] * 1000)

    def time_calls(timed: TimedArm, num_calls: int) -> CallTimes:
        return replace(machine.measure(timed, num_calls), busy_cores=next(cores))

    samples = measure_in_rounds(ARMS[:1], settings(), 0, time_calls)[ARMS[0]]
    assert samples.own_load == pytest.approx(0.54, abs=0.05)
    assert samples.shared_with == ["b"], "the other took less than a twentieth of a core"


@pytest.mark.parametrize(("num_arms", "least"), [(1, 0.90), (4, 0.92)])
def test_stopping_when_narrow_costs_few_points_of_coverage(
    monkeypatch: pytest.MonkeyPatch, num_arms: int, least: float
) -> None:
    num_trials, generator = 600 // num_arms, np.random.default_rng(num_arms)
    arms = [TimedArm(Arm(str(number)), "cold") for number in range(num_arms)]
    num_covering = num_rounds = 0
    for trial in range(num_trials):
        noise = generator.lognormal(sigma=0.03, size=(num_arms, 2000)) * 10.0
        machine = FakeMachine(
            monkeypatch, {one.arm.impl: iter(row) for one, row in zip(arms, noise, strict=True)}
        )
        measured = measure_in_rounds(arms, settings(seconds_per_arm=9.0), trial, machine.measure)
        for result in measured.values():
            interval = median_interval(result.samples_ms)
            assert interval is not None
            num_covering += interval.low <= 10.0 <= interval.high
            num_rounds += len(result.slice_sizes)
    assert least <= num_covering / (num_trials * num_arms) <= 0.98
    assert num_rounds > 8 * num_trials * num_arms, "not decided at the first looks, or nothing was shown"
