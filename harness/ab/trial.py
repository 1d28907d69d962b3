"""An A/B from its first pair to its verdicts: bytes and outcomes exactly, times until they are decided."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from gqabench.harness.ab.pairs import Pair, PairRunner, Row
from gqabench.results import Outcome
from gqabench.results.comparison.exact_verdicts import judge_bytes, judge_outcome
from gqabench.results.comparison.metrics import METRICS
from gqabench.results.comparison.paired_trials import Schedule, Stage, Trial, judge_trials, next_step
from gqabench.results.comparison.policy import Policy
from gqabench.results.comparison.verdicts import Answer, CellKey, Verdict

LATENCY = "latency_ms"
_UNCONFIRMED = "a regression in one pair of processes, but not in the next"


@dataclass
class AbTrial:
    """One comparison of two environments."""

    runner: PairRunner
    policy: Policy
    budget_s: float
    say: Callable[[str], None] = lambda text: None
    clock: Callable[[], float] = time.monotonic
    pairs: list[Pair] = field(default_factory=list)
    trials: dict[CellKey, Trial] = field(default_factory=dict)
    unpaired: dict[CellKey, int] = field(default_factory=dict)
    """Cells without a latency in some pair of processes, and how many pairs they had before it."""
    is_out_of_time: bool = False

    def run(self) -> list[Verdict]:
        """Measure until every cell is decided, the schedule ends, or the time budget is spent."""
        began_s = self.clock()
        deadline = began_s + self.budget_s
        schedule = Schedule(false_discovery_rate=self.policy.false_discovery_rate)
        self._measure(None)
        self._say_if_hopeless(self.clock() - began_s, schedule)
        exact = self._confirmed(self._exact_verdicts(self.pairs[0]))
        self._begin_trials()
        while (step := next_step(self.trials, schedule)) is not None and not self.is_out_of_time:
            for _ in range(step.num_pairs):
                if self.clock() >= deadline:
                    self.is_out_of_time = True
                    break
                cells = [cell for cell in step.cells if cell in self.trials]
                if not cells:
                    break
                self._add(step.stage, self._measure(set(cells)), cells)
        return [*exact, *self._time_verdicts(schedule)]

    def _say_if_hopeless(self, pair_s: float, schedule: Schedule) -> None:
        """Say at once where the budget ends before the first cell can be decided; `pair_s` is of one pair."""
        fewest, most = schedule.screen_looks[0], schedule.screen_looks[-1]
        if self.policy.judges_times and pair_s * fewest > self.budget_s:
            enough_s = math.ceil(pair_s * most / 10) * 10
            self.say(
                f"a pair takes {pair_s:.0f} s, and no cell is decided before {fewest} pairs: the times will"
                f" be inconclusive; --budget {enough_s} or fewer cells would decide most of them"
            )

    def _measure(self, cells: set[CellKey] | None) -> Pair:
        pair = self.runner.run(cells)
        self.pairs.append(pair)
        what = "all" if cells is None else str(len(cells))
        self.say(f"pair {len(self.pairs)}: {what} cells measured")
        return pair

    def _exact_verdicts(self, pair: Pair) -> list[Verdict]:
        verdicts = []
        for cell, row in pair.base.items():
            base, new = [row], [pair.new[cell]]
            verdicts.append(judge_outcome(cell, base, new))
            for metric in METRICS.values():
                rule = self.policy.rule(metric.column, row) if metric.is_exact else None
                verdict = None if rule is None else judge_bytes(cell, metric.column, base, new, rule)
                if verdict is not None:
                    verdicts.append(verdict)
        return verdicts

    def _confirmed(self, verdicts: list[Verdict]) -> list[Verdict]:
        """Measure alarms again in a fresh pair; an alarm that does not recur is dropped."""
        alarms = {one.cell for one in verdicts if one.answer is Answer.REGRESSION}
        if not alarms:
            return verdicts
        again = {(one.cell, one.metric): one for one in self._exact_verdicts(self._measure(alarms))}
        return [
            replace(one, answer=Answer.INCONCLUSIVE, reason=_UNCONFIRMED)
            if one.answer is Answer.REGRESSION and not _is_alarm(again.get((one.cell, one.metric)))
            else one
            for one in verdicts
        ]

    def _begin_trials(self) -> None:
        for cell, row in self.pairs[0].base.items():
            rule = self.policy.rule(LATENCY, row)
            ratio = log_ratio(row, self.pairs[0].new[cell])
            if rule is not None and ratio is not None:
                self.trials[cell] = Trial(rule.min_effect).with_pairs(Stage.SCREEN, [ratio])

    def _add(self, stage: Stage, pair: Pair, cells: Sequence[CellKey]) -> None:
        for cell in cells:
            ratio = log_ratio(pair.base[cell], pair.new[cell])
            if ratio is not None:
                self.trials[cell] = self.trials[cell].with_pairs(stage, [ratio])
            else:
                trial = self.trials.pop(cell)
                self.unpaired[cell] = len(trial.screen) + len(trial.confirm)

    def _time_verdicts(self, schedule: Schedule) -> list[Verdict]:
        verdicts = [
            Verdict(cell=cell, metric=LATENCY, answer=Answer.INCONCLUSIVE, num_base=number, num_new=number,
                    reason="not measured in every pair of processes")
            for cell, number in self.unpaired.items()
        ]  # fmt: skip
        for cell, found in judge_trials(self.trials, schedule).items():
            verdicts.append(
                Verdict(
                    cell=cell, metric=LATENCY, answer=found.answer, is_improvement=found.is_improvement,
                    base=self._latency(cell, "base"), new=self._latency(cell, "new"), change=found.change,
                    change_low=found.change_low, change_high=found.change_high,
                    min_effect=self.trials[cell].min_effect,
                    smallest_detectable_change=found.smallest_detectable_change, p_value=found.p_value,
                    num_base=found.num_pairs, num_new=found.num_pairs, reason=found.reason,
                )
            )  # fmt: skip
        return verdicts

    def _latency(self, cell: CellKey, side: str) -> float:
        """Return the median of the processes' medians, in milliseconds."""
        rows = [getattr(pair, side)[cell] for pair in self.pairs if cell in getattr(pair, side)]
        values = sorted(row[LATENCY] for row in rows if row["outcome"] == Outcome.OK)
        middle = len(values) // 2
        return float(values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2)


def log_ratio(base: Row, new: Row) -> float | None:
    """Return the logarithm of the new side's latency over the base's.

    None unless both sides have a latency.
    """
    if base["outcome"] != Outcome.OK or new["outcome"] != Outcome.OK:
        return None
    return math.log(new[LATENCY] / base[LATENCY])


def _is_alarm(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.answer is Answer.REGRESSION
