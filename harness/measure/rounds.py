"""Times the arms of a case in rounds, each in a fresh seeded order, so that drift hits all alike.

Arms share the time, not the rounds: in each round an arm makes the calls that fill its turn. An arm so slow
that its least number of calls exceeds its share sits rounds out, so that its few calls spread over all of the
case. `docs/adr/0022-shares-of-time.md` has the reasons and the numbers.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from gqabench.harness.cases.case import Arm, MeasureSettings
from gqabench.harness.workers.replies import CALLS_OF_LONG_SLICE, CallTimes
from gqabench.results.statistics.derive import is_narrow


@dataclass(frozen=True)
class TimedArm:
    """An arm with the caches in one state: what has a series of samples."""

    arm: Arm
    cache_state: str
    """`cold` or `warm`"""


TimeCalls = Callable[[TimedArm, int], CallTimes]
"""Times a number of calls in one go."""

_CALLS_PER_TURN = 6
"""Of an arm whose share allows them: the worker leaves the first call of so many untimed."""
_ROUNDING = 0.25
"""Of a call: a turn may be shorter than a slice, or longer than its part of the share, by so much."""
_MAX_CALLS_PER_TURN = 100
_MAX_SAMPLES_PER_ARM = 2000
_NAMED_FROM = 0.05
_EXTRA_SHARE = 0.3
"""Of what slow arms take beyond their shares: so much longer do the others get as well."""


@dataclass
class Samples:
    """What was timed of one arm in one state of the caches."""

    samples_ms: list[float] = field(default_factory=list)
    slice_sizes: list[int] = field(default_factory=list)
    """How many successive samples each of its turns gave"""
    num_exposed: int = 0
    elapsed_s: float = 0.0
    """Wall time of its turns, with all that is not timed"""
    taken_s: dict[str, float] = field(default_factory=dict)
    """CPU time that others of this run took meanwhile, by their names: see `CallTimes.busy_cores`"""

    @property
    def is_full(self) -> bool:
        """Whether more samples would tell little; one of each further round still shows a drift."""
        return len(self.samples_ms) >= _MAX_SAMPLES_PER_ARM

    def add(self, timed: CallTimes, elapsed_s: float) -> None:
        """Add a slice: calls that were timed in one turn."""
        self.samples_ms.extend(timed.samples_ms)
        self.slice_sizes.append(len(timed.samples_ms))
        self.num_exposed += timed.num_exposed
        self.elapsed_s += elapsed_s
        for name, cores in timed.busy_cores.items():
            self.taken_s[name] = self.taken_s.get(name, 0.0) + cores * elapsed_s

    @property
    def own_load(self) -> float:
        """Cores that others of this run kept busy during its turns, on average."""
        return sum(self.taken_s.values()) / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def shared_with(self) -> list[str]:
        """Who they were: each that took a twentieth of a core or more."""
        return [name for name, seconds in self.taken_s.items() if seconds > _NAMED_FROM * self.elapsed_s]


@dataclass(frozen=True)
class _Share:
    """What one arm is due."""

    seconds: float
    """Of the case's time: its equal share, or as long as its least number of calls takes"""
    calls_per_turn: int
    least_samples: int
    """With fewer its interval does not count as narrow"""
    is_slow: bool
    """Whether it takes one call at a time, and stops at the least number"""

    @classmethod
    def of(cls, call_s: float, settings: MeasureSettings) -> _Share:
        """Return the share of an arm by what one call takes, flushing included."""
        share_s, slice_s = settings.seconds_per_arm, settings.slice_ms / 1e3
        fewest_s = settings.min_rounds * call_s
        longest_turn_s = max(slice_s, share_s / settings.min_rounds)
        of_slice = math.ceil(slice_s / call_s - _ROUNDING)
        of_share = math.floor(min(_CALLS_PER_TURN, share_s / settings.min_rounds / call_s) + _ROUNDING)
        num_calls = max(1, min(_MAX_CALLS_PER_TURN, max(of_slice, of_share)))
        while num_calls >= CALLS_OF_LONG_SLICE and (num_calls + 1 - _ROUNDING) * call_s > longest_turn_s:
            num_calls -= 1  # the worker makes one more, untimed
        return cls(
            seconds=max(share_s, fewest_s),
            calls_per_turn=num_calls,
            least_samples=max(settings.min_rounds, min(settings.min_samples, int(share_s / call_s))),
            is_slow=fewest_s > share_s,
        )


def measure_in_rounds(
    timed_arms: Sequence[TimedArm], settings: MeasureSettings, seed: int, time_calls: TimeCalls
) -> dict[TimedArm, Samples]:
    """Measure until the interval of every arm's median is narrow, or the time budget is spent.

    An arm whose interval is narrow makes half as many calls in each further round, so that the others get the
    time, and drift still reaches all; so does one with enough samples while another has few. One that has
    samples in plenty counts as narrow: what is wide with so many does not become narrow.

    Who stops when an interval is narrow prefers samples that happen to lie close together. In simulations of
    independent samples that stop after 60 or 70, 94.6 % of the 95 % intervals of one arm cover its median,
    and 94.7 % of those of four arms, where the widest decides.
    """
    return _Rounds(timed_arms, settings, seed, time_calls).run()


class _Rounds:
    """One measurement of a case."""

    def __init__(
        self, timed_arms: Sequence[TimedArm], settings: MeasureSettings, seed: int, time_calls: TimeCalls
    ) -> None:
        self._arms = list(timed_arms)
        self._settings = settings
        self._order = random.Random(seed)
        self._time_calls = time_calls
        self._measured = {one: Samples() for one in timed_arms}
        self._call_s: dict[TimedArm, float] = {}
        """What a call takes at least, with all that is not timed: a single one may have met a disturbance"""
        self._shares: dict[TimedArm, _Share] = {}
        self._began_s = self._total_s = 0.0

    def run(self) -> dict[TimedArm, Samples]:
        self._began_s = time.monotonic()
        for one in self._shuffled():
            self._warm_up(one)
        while not self._is_done():
            for one in self._shuffled():
                if self._is_due(one):
                    self._take_turn(one)
        return self._measured

    def _shuffled(self) -> list[TimedArm]:
        return self._order.sample(self._arms, len(self._arms))

    def _warm_up(self, one: TimedArm) -> None:
        """Make a call to learn what one takes. That of a slow arm counts: it has run before, untimed."""
        elapsed_s, timed = self._timed(one, 1)
        if self._shares[one].is_slow:
            self._measured[one].add(timed, elapsed_s)

    def _timed(self, one: TimedArm, num_calls: int) -> tuple[float, CallTimes]:
        """Time calls; also return what they took in all, from which the arm's share follows."""
        began_s = time.monotonic()
        timed = self._time_calls(one, num_calls)
        elapsed_s = max(time.monotonic() - began_s, 1e-9)
        call_s = elapsed_s / num_calls
        if call_s < self._call_s.get(one, math.inf):
            self._call_s[one] = call_s
            self._shares[one] = _Share.of(call_s, self._settings)
            self._total_s = _total_seconds(self._shares.values(), self._settings.seconds_per_arm)
        return elapsed_s, timed

    def _take_turn(self, one: TimedArm) -> None:
        samples, share = self._measured[one], self._shares[one]
        num_calls = share.calls_per_turn
        if samples.is_full:
            num_calls = 1
        elif self._is_settled(one) or self._gives_way(one):
            num_calls = max(1, num_calls // 2)
        elapsed_s, timed = self._timed(one, num_calls)
        if share.is_slow and not self._shares[one].is_slow:
            self._measured[one] = samples = Samples()  # its calls so far had met a disturbance
        samples.add(timed, elapsed_s)

    def _progress(self) -> float:
        """Return the share of the case's time that is over: beyond 1 it is late."""
        return (time.monotonic() - self._began_s) / self._total_s

    def _is_due(self, one: TimedArm) -> bool:
        """Return whether an arm has a turn in this round."""
        num_taken, progress = len(self._measured[one].slice_sizes), self._progress()
        is_missing = num_taken < self._settings.min_rounds
        if progress >= 1:
            return is_missing
        if not self._shares[one].is_slow:
            return True
        is_its_time = num_taken <= progress * self._settings.min_rounds
        return is_missing and (is_its_time or all(map(self._is_settled, self._fast_arms())))

    def _gives_way(self, one: TimedArm) -> bool:
        """Return whether an arm has enough samples, after its least rounds, while another has few."""
        is_early = len(self._measured[one].slice_sizes) < self._settings.min_rounds
        return not is_early and not self._has_few(one) and any(map(self._has_few, self._fast_arms()))

    def _has_few(self, one: TimedArm) -> bool:
        """Return whether an arm has fewer samples than the settings ask for where time allows."""
        return len(self._measured[one].samples_ms) < self._settings.min_samples

    def _fast_arms(self) -> Iterator[TimedArm]:
        return (one for one in self._arms if not self._shares[one].is_slow)

    def _is_settled(self, one: TimedArm) -> bool:
        """Return whether more samples of an arm would not help."""
        samples, share = self._measured[one], self._shares[one]
        if len(samples.slice_sizes) < self._settings.min_rounds:
            return False
        if share.is_slow or samples.is_full:
            return True
        has_enough = len(samples.samples_ms) >= share.least_samples
        return has_enough and is_narrow(samples.samples_ms, self._settings.target_interval)

    def _is_done(self) -> bool:
        if any(len(one.slice_sizes) < self._settings.min_rounds for one in self._measured.values()):
            return False
        return self._progress() >= 1 or all(map(self._is_settled, self._arms))


def _total_seconds(shares: Iterable[_Share], share_s: float) -> float:
    """Return how long a case takes at most: all shares, and a little more where slow arms exceed theirs."""
    seconds = [share.seconds for share in shares]
    excess_s = sum(seconds) - share_s * len(seconds)
    return sum(seconds) + _EXTRA_SHARE * excess_s
