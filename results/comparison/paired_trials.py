"""Deciding by pairs of fresh processes: screen all cells, then confirm each suspicion on fresh pairs.

A trial is one cell's log ratios `ln(new / base)`, a pair of fresh processes each. The procedure, whose
reasons and simulated error rates stand in `docs/adr/0012-screen-then-confirm.md`:

1. Screen. After `screen_looks` pairs each cell is tested for a slowdown beyond the minimum effect. It becomes
   a candidate if the p-value is at most `screen_level`, from `fewest_for_candidate` pairs on, and is released
   as "no regression" if the upper bound of its change, at `release_level`, is below the minimum effect. Else
   it goes on to the next look.
2. Confirm. Candidates are measured again, and what screening saw counts no longer: the p-value is of the
   fresh pairs alone, so that looking often while screening costs nothing. It is looked at after
   `confirm_looks` pairs; each look spends its share `confirm_shares` of the error (Bonferroni over looks).
   A candidate that the fresh pairs speak against rather than for (`hopeless_level`) is left open there.
   Benjamini and Hochberg's procedure over all candidates bounds the share of false alarms among the alarms.

All functions are pure: `next_step` says what to measure, `judge_trials` what is known, at any moment.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Generic, TypeVar

import numpy as np

from gqabench.results.comparison.verdicts import Answer
from gqabench.results.statistics.relative_change import change_and_interval, smallest_detectable_change
from gqabench.results.statistics.signed_rank import Values, p_greater, p_less, upper_bound

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Schedule:
    """How many pairs, and with which errors."""

    screen_looks: tuple[int, ...] = (3, 4, 8)
    """Pairs after which a screened cell is looked at, counted from the first."""
    fewest_for_candidate: int = 4
    """Pairs before which a cell may be released, but is no candidate: of many each has to be surer."""
    confirm_looks: tuple[int, ...] = (6, 12)
    """Fresh pairs after which a candidate is looked at."""
    confirm_shares: tuple[float, ...] = (0.65, 0.35)
    """The share of the error that each look at a candidate may spend; together 1."""
    screen_level: float = 0.125
    release_level: float = 0.125
    improvement_level: float = 0.10
    """Error of calling a cell better, which no decision rests on."""
    hopeless_level: float = 0.5
    """A candidate whose fresh pairs give a p-value above it is followed no further."""
    false_discovery_rate: float = 0.05

    def __post_init__(self) -> None:
        for looks in (self.screen_looks, self.confirm_looks):
            if not looks or list(looks) != sorted(set(looks)) or looks[0] < 1:
                raise ValueError(f"looks={looks}: must be increasing numbers of pairs")
        if len(self.confirm_shares) != len(self.confirm_looks) or not math.isclose(
            sum(self.confirm_shares), 1
        ):
            raise ValueError(f"confirm_shares={self.confirm_shares}: one for each look, together 1")


class Stage(StrEnum):
    """Which of a trial's pairs."""

    SCREEN = "screen"
    CONFIRM = "confirm"


@dataclass(frozen=True)
class Trial:
    """One cell's log ratios so far, in order."""

    min_effect: float
    """Relative slowdown that is not worth a word: 0.02 is 2 %."""
    screen: tuple[float, ...] = ()
    confirm: tuple[float, ...] = ()

    @property
    def point(self) -> float:
        """The minimum effect as a log ratio."""
        return math.log1p(self.min_effect)

    def with_pairs(self, stage: Stage, log_ratios: Iterable[float]) -> Trial:
        """Return the trial with more pairs of a stage."""
        if stage is Stage.SCREEN:
            return replace(self, screen=(*self.screen, *map(float, log_ratios)))
        return replace(self, confirm=(*self.confirm, *map(float, log_ratios)))


@dataclass(frozen=True)
class Step(Generic[Key]):
    """What to measure next: so many more pairs of these cells, added to the trials' `stage`."""

    stage: Stage
    cells: tuple[Key, ...]
    num_pairs: int


@dataclass(frozen=True, kw_only=True)
class TrialAnswer:
    """What is known of one cell. Changes are relative: 0.05 is 5 % slower."""

    answer: Answer
    is_improvement: bool
    change: float | None
    change_low: float | None
    change_high: float | None
    smallest_detectable_change: float | None
    p_value: float | None
    """Adjusted for all candidates; None for a cell that never was one."""
    num_pairs: int
    """Pairs that the answer rests on; those that screened a candidate are not among them."""
    reason: str


class _Screened(StrEnum):
    RELEASED = "released"
    CANDIDATE = "candidate"
    OPEN = "open"


def next_step(trials: Mapping[Key, Trial], schedule: Schedule) -> Step[Key] | None:
    """Return what to measure next; None when every cell has its answer or the schedule is at its end.

    All screening comes first: the family of candidates has to be whole before one of it is confirmed.
    """
    open_cells = [key for key, trial in trials.items() if _screened(trial, schedule) is _Screened.OPEN]
    step = _step_to_next_look(Stage.SCREEN, open_cells, trials, schedule.screen_looks)
    if step is not None:
        return step
    adjusted = _adjusted_p_values(trials, schedule)
    undecided = [
        key
        for key, p_value in adjusted.items()
        if p_value > schedule.false_discovery_rate
        and not _is_released(trials[key], schedule)
        and not _is_hopeless(trials[key], schedule)
    ]
    return _step_to_next_look(Stage.CONFIRM, undecided, trials, schedule.confirm_looks)


def judge_trials(trials: Mapping[Key, Trial], schedule: Schedule) -> dict[Key, TrialAnswer]:
    """Judge every cell by the pairs that there are. Before the schedule ends, some are open."""
    adjusted = _adjusted_p_values(trials, schedule)
    return {key: _judge(trial, adjusted.get(key), schedule) for key, trial in trials.items()}


def _step_to_next_look(
    stage: Stage, keys: list[Key], trials: Mapping[Key, Trial], looks: tuple[int, ...]
) -> Step[Key] | None:
    """Return the cells that have the fewest pairs, to their next look."""
    counts = {key: len(getattr(trials[key], stage)) for key in keys}
    counts = {key: count for key, count in counts.items() if count < looks[-1]}
    if not counts:
        return None
    fewest = min(counts.values())
    target = next(look for look in looks if look > fewest)
    return Step(stage, tuple(key for key in counts if counts[key] == fewest), target - fewest)


def _screened(trial: Trial, schedule: Schedule) -> _Screened:
    for look in schedule.screen_looks:
        if len(trial.screen) < look:
            break
        values = np.array(trial.screen[:look])
        is_early = look < schedule.fewest_for_candidate
        if not is_early and p_greater(values, trial.point) <= schedule.screen_level:
            return _Screened.CANDIDATE
        if is_early and p_less(values, -trial.point) <= schedule.release_level:
            continue  # it may be better, which one pair more can tell
        if _is_below(values, trial.point, schedule.release_level):
            return _Screened.RELEASED
    return _Screened.OPEN


def _is_released(trial: Trial, schedule: Schedule) -> bool:
    """Return whether a candidate's fresh pairs show that it is none."""
    looks = [look for look in schedule.confirm_looks if look <= len(trial.confirm)]
    return any(
        _is_below(np.array(trial.confirm[:look]), trial.point, schedule.release_level) for look in looks
    )


def _is_hopeless(trial: Trial, schedule: Schedule) -> bool:
    """Return whether more fresh pairs of a candidate would hardly prove it."""
    looks = [look for look in schedule.confirm_looks if look <= len(trial.confirm)]
    return any(
        p_greater(np.array(trial.confirm[:look]), trial.point) > schedule.hopeless_level for look in looks
    )


def _is_below(values: Values, point: float, level: float) -> bool:
    bound = upper_bound(values, level)
    return bound is not None and bound < point


def _adjusted_p_values(trials: Mapping[Key, Trial], schedule: Schedule) -> dict[Key, float]:
    """Return the p-value of every candidate, by its fresh pairs alone; 1 before the first look."""
    from scipy.stats import false_discovery_control  # here: reading records does not wait for scipy

    candidates = [key for key, trial in trials.items() if _screened(trial, schedule) is _Screened.CANDIDATE]
    if not candidates:
        return {}
    raw = [_confirm_p_value(trials[key], schedule) for key in candidates]
    return dict(zip(candidates, map(float, false_discovery_control(raw)), strict=True))


def _confirm_p_value(trial: Trial, schedule: Schedule) -> float:
    """Return the least p-value of the looks so far, each divided by its share of the error."""
    by_look = [
        p_greater(np.array(trial.confirm[:look]), trial.point) / share
        for look, share in zip(schedule.confirm_looks, schedule.confirm_shares, strict=True)
        if look <= len(trial.confirm)
    ]
    return min([1.0, *by_look])


def _judge(trial: Trial, p_value: float | None, schedule: Schedule) -> TrialAnswer:
    is_candidate = p_value is not None
    values = np.array(trial.confirm if is_candidate and trial.confirm else trial.screen)
    if p_value is not None and p_value <= schedule.false_discovery_rate:
        answer, reason = Answer.REGRESSION, "slower beyond the minimum effect, and again in fresh processes"
    elif is_candidate and _is_released(trial, schedule):
        answer, reason = Answer.NO_REGRESSION, "a suspected slowdown that fresh processes did not confirm"
    elif not is_candidate and _screened(trial, schedule) is _Screened.RELEASED:
        answer, reason = Answer.NO_REGRESSION, f"less than {trial.min_effect:.1%} slower"
    else:
        answer, reason = Answer.INCONCLUSIVE, _why_open(trial, schedule, is_candidate)
    change, low, high = change_and_interval(values)
    return TrialAnswer(
        answer=answer,
        is_improvement=answer is Answer.NO_REGRESSION
        and p_less(values, -trial.point) <= schedule.improvement_level,
        change=change,
        change_low=low,
        change_high=high,
        smallest_detectable_change=smallest_detectable_change(
            values, trial.point, schedule.false_discovery_rate
        ),
        p_value=p_value,
        num_pairs=len(values),
        reason=reason,
    )


def _why_open(trial: Trial, schedule: Schedule, is_candidate: bool) -> str:
    has_all = (
        len(trial.confirm) >= schedule.confirm_looks[-1] or _is_hopeless(trial, schedule)
        if is_candidate
        else len(trial.screen) >= schedule.screen_looks[-1]
    )
    if not has_all:
        return "it ended before there were enough pairs"
    return "slower at first, but not confirmed in fresh processes" if is_candidate else "too noisy to tell"
