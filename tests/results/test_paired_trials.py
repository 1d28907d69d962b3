"""The decision by pairs: its steps by hand, and its error rates on machines made up.

`tests/benchmarks/decision_rates.py` measures the same rates with many more sweeps.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from gqabench.results.comparison.paired_trials import (
    Schedule,
    Stage,
    Step,
    Trial,
    TrialAnswer,
    judge_trials,
    next_step,
)
from gqabench.results.comparison.verdicts import Answer
from gqabench.results.statistics.relative_change import smallest_detectable_change
from tests.results.noise import log_ratios

SCHEDULE = Schedule()
UP, FLAT = math.log(1.05), 0.0


def run_sweep(machine: str, changes: list[float], seed: int) -> tuple[list[TrialAnswer], list[int]]:
    """Measure made-up cells until all are decided; the answers, and the pairs that each cell took."""
    generator = np.random.default_rng(seed)
    trials = {cell: Trial(min_effect=0.02) for cell in range(len(changes))}
    while (step := next_step(trials, SCHEDULE)) is not None:
        for cell in step.cells:
            pairs = log_ratios(machine, generator, step.num_pairs, changes[cell])
            trials[cell] = trials[cell].with_pairs(step.stage, pairs)
    answers = judge_trials(trials, SCHEDULE)
    return [answers[cell] for cell in trials], [len(one.screen) + len(one.confirm) for one in trials.values()]


def test_all_cells_are_screened_before_one_is_confirmed() -> None:
    trials = {"a": Trial(0.02), "b": Trial(0.02)}
    assert next_step(trials, SCHEDULE) == Step(Stage.SCREEN, ("a", "b"), 3)
    trials = {"a": Trial(0.02, (UP,) * 3), "b": Trial(0.02, (FLAT,) * 3)}
    assert next_step(trials, SCHEDULE) == Step(Stage.SCREEN, ("a",), 1)  # b is released, a no candidate yet
    trials = {"a": Trial(0.02, (UP,) * 4), "b": Trial(0.02, (UP, -UP, UP, -UP))}
    assert next_step(trials, SCHEDULE) == Step(Stage.SCREEN, ("b",), 4)  # a waits
    trials["b"] = Trial(0.02, (FLAT,) * 4)
    assert next_step(trials, SCHEDULE) == Step(Stage.CONFIRM, ("a",), 6)
    trials["a"] = replace(trials["a"], confirm=(UP,) * 6)
    assert next_step(trials, SCHEDULE) is None


def test_a_regression_is_confirmed_in_ten_pairs_and_named_alone() -> None:
    trials = {"slow": Trial(0.02, (UP,) * 4, (UP,) * 6), "same": Trial(0.02, (FLAT,) * 3)}
    answers = judge_trials(trials, SCHEDULE)
    slow, same = answers["slow"], answers["same"]
    assert (slow.answer, same.answer) == (Answer.REGRESSION, Answer.NO_REGRESSION)
    assert slow.p_value == pytest.approx(1 / 64 / 0.65)  # all six positive, at a look with 65 % of the error
    assert slow.change == pytest.approx(0.05)
    assert slow.num_pairs == 6
    assert same.p_value is None


def test_what_screening_saw_does_not_count_again() -> None:
    """Four pairs far out, six fresh ones at nothing: the suspicion was chance."""
    answer = judge_trials({"a": Trial(0.02, (0.5,) * 4, (FLAT,) * 6)}, SCHEDULE)["a"]
    assert answer.answer == Answer.NO_REGRESSION
    assert answer.change == 0


def test_a_candidate_that_fresh_pairs_speak_against_is_followed_no_further() -> None:
    """Screened as slower, then as often faster: six more pairs would hardly prove it."""
    mixed = Trial(0.02, (UP,) * 4, (0.3, -0.3, 0.2, -0.2, 0.1, -0.1))
    leaning = Trial(0.02, (UP,) * 4, (0.3, 0.1, 0.2, -0.15, 0.05, 0.04))
    assert next_step({"a": mixed}, SCHEDULE) is None
    answer = judge_trials({"a": mixed}, SCHEDULE)["a"]
    assert answer.answer == Answer.INCONCLUSIVE
    assert answer.reason == "slower at first, but not confirmed in fresh processes"
    assert next_step({"a": leaning}, SCHEDULE) == Step(Stage.CONFIRM, ("a",), 6)


def test_many_candidates_have_to_be_surer() -> None:
    """Six pairs prove a lone candidate; one of eight needs p <= 0.05 / 8, and twelve pairs give it."""
    six, twelve = Trial(0.02, (UP,) * 4, (UP,) * 6), Trial(0.02, (UP,) * 4, (UP,) * 12)
    others = {number: Trial(0.02, (UP,) * 4, (0.5, -0.5) * 6) for number in range(7)}
    assert judge_trials({"a": six} | others, SCHEDULE)["a"].answer == Answer.INCONCLUSIVE
    assert judge_trials({"a": twelve} | others, SCHEDULE)["a"].answer == Answer.REGRESSION


def test_a_speed_up_is_never_a_regression() -> None:
    answer = judge_trials({"a": Trial(0.02, (math.log(0.7),) * 4)}, SCHEDULE)["a"]
    assert answer.answer == Answer.NO_REGRESSION
    assert answer.is_improvement
    assert answer.change == pytest.approx(-0.3)
    assert not judge_trials({"a": Trial(0.02, (FLAT,) * 4)}, SCHEDULE)["a"].is_improvement


def test_three_pairs_call_nothing_better_and_what_may_be_gets_a_fourth() -> None:
    trials = {"a": Trial(0.02, (math.log(0.9),) * 3)}
    assert not judge_trials(trials, SCHEDULE)["a"].is_improvement
    assert next_step(trials, SCHEDULE) == Step(Stage.SCREEN, ("a",), 1)
    trials = {"a": Trial(0.02, (math.log(0.9),) * 3 + (math.log(1.1),))}
    answer = judge_trials(trials, SCHEDULE)["a"]
    assert (answer.answer, answer.is_improvement) == (Answer.NO_REGRESSION, False)


def test_too_few_pairs_are_no_answer() -> None:
    for trial in (Trial(0.02), Trial(0.02, (UP,)), Trial(0.02, (UP,) * 4, (UP,) * 5)):
        answer = judge_trials({"a": trial}, SCHEDULE)["a"]
        assert answer.answer == Answer.INCONCLUSIVE
        assert answer.reason == "it ended before there were enough pairs"
    assert judge_trials({"a": Trial(0.02)}, SCHEDULE)["a"].change is None
    assert judge_trials({}, SCHEDULE) == {}


def test_noise_that_hides_a_change_says_what_it_would_have_seen() -> None:
    pairs = (0.30, -0.28, 0.26, -0.24, 0.22, -0.20, 0.18, -0.16)
    answer = judge_trials({"a": Trial(0.02, pairs)}, SCHEDULE)["a"]
    assert (answer.answer, answer.reason) == (Answer.INCONCLUSIVE, "too noisy to tell")
    change = answer.smallest_detectable_change
    assert change is not None
    shift = math.log1p(change) - math.log1p(answer.change or 0)
    called = smallest_detectable_change(np.array(pairs) + shift, math.log1p(0.02), 0.05)
    assert called == pytest.approx(change)  # whatever was there: it depends on the noise alone
    assert 0.15 < change < 0.35


@pytest.mark.parametrize("looks", [(), (4, 4), (8, 4), (0,)])
def test_a_schedule_that_goes_backwards_is_refused(looks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="looks"):
        Schedule(screen_looks=looks)
    with pytest.raises(ValueError, match="confirm_shares"):
        Schedule(confirm_shares=(0.5, 0.4))


@pytest.mark.parametrize("machine", ["quiet", "noisy", "drifting", "bimodal"])
def test_a_hundred_equal_cells_raise_no_alarm(machine: str) -> None:
    """Thirty sweeps of a hundred cells: with one false alarm in a hundred sweeps, 0.3 are expected."""
    for seed in range(30):
        answers, _ = run_sweep(machine, [0.0] * 100, seed)
        assert [answer for answer in answers if answer.answer == Answer.REGRESSION] == []


def test_five_per_cent_are_found_on_a_quiet_machine_in_ten_pairs() -> None:
    found = 0
    for seed in range(200):
        answers, num_pairs = run_sweep("quiet", [0.05] + [0.0] * 9, seed)
        found += answers[0].answer == Answer.REGRESSION and num_pairs[0] <= 10
        assert all(answer.answer != Answer.REGRESSION for answer in answers[1:])
    assert found >= 190


def test_ten_per_cent_on_a_noisy_machine_are_found_or_left_open() -> None:
    given = []
    for seed in range(100):
        answers, num_pairs = run_sweep("noisy", [0.10] * 3, seed)
        assert max(num_pairs) <= 20
        given += [answer.answer for answer in answers]
    assert given.count(Answer.NO_REGRESSION) <= 3
    assert given.count(Answer.REGRESSION) >= 90
