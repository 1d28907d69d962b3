"""How often a comparison of a thing with itself raised an alarm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gqabench.results.comparison.verdicts import Answer, Verdict


@dataclass(frozen=True)
class FalseAlarms:
    """Counts over runs whose two sides were the same: every regression is a false alarm."""

    num_runs: int = 0
    num_verdicts: int = 0
    num_alarms: int = 0
    num_inconclusive: int = 0
    num_runs_with_alarms: int = 0

    def with_run(self, verdicts: Sequence[Verdict]) -> FalseAlarms:
        """Return the counts with one more run."""
        alarms = sum(one.answer is Answer.REGRESSION for one in verdicts)
        return FalseAlarms(
            num_runs=self.num_runs + 1,
            num_verdicts=self.num_verdicts + len(verdicts),
            num_alarms=self.num_alarms + alarms,
            num_inconclusive=self.num_inconclusive
            + sum(one.answer is Answer.INCONCLUSIVE for one in verdicts),
            num_runs_with_alarms=self.num_runs_with_alarms + (alarms > 0),
        )

    def lines(self) -> list[str]:
        """Return the rates in words, with their exact 95 % intervals (Clopper and Pearson 1934)."""
        return [
            f"false alarms: {_rate(self.num_alarms, self.num_verdicts)} of the verdicts",
            f"runs with a false alarm: {_rate(self.num_runs_with_alarms, self.num_runs)} of the runs",
            f"inconclusive: {_rate(self.num_inconclusive, self.num_verdicts)} of the verdicts",
        ]


def _rate(count: int, total: int) -> str:
    from scipy.stats import binomtest

    interval = binomtest(count, total).proportion_ci(0.95, method="exact")
    return (
        f"{count} of {total}, {count / total:.1%} (95 % interval {interval.low:.1%} to {interval.high:.1%})"
    )
