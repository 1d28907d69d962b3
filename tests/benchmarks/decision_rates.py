"""How often the decision by pairs is wrong, and what it finds, on machines made up.

`python tests/benchmarks/decision_rates.py [SWEEPS]` prints, for each kind of machine, how many sweeps of a
hundred equal cells raise any alarm (with a 95 % upper bound), and what becomes of one slower cell of fifty.
ADR 12 quotes it.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.stats import beta

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, from anywhere

from gqabench.results.comparison.paired_trials import Schedule, Trial, TrialAnswer, judge_trials, next_step
from gqabench.results.comparison.verdicts import Answer
from tests.results.noise import MACHINES, log_ratios

SCHEDULE = Schedule()
MIN_EFFECT = 0.02


def run_sweep(
    machine: str, changes: list[float], generator: np.random.Generator
) -> tuple[list[TrialAnswer], list[int]]:
    """One sweep until every cell is decided: the answers, and the pairs that each cell took."""
    trials = {cell: Trial(MIN_EFFECT) for cell in range(len(changes))}
    while (step := next_step(trials, SCHEDULE)) is not None:
        for cell in step.cells:
            pairs = log_ratios(machine, generator, step.num_pairs, changes[cell])
            trials[cell] = trials[cell].with_pairs(step.stage, pairs)
    answers = judge_trials(trials, SCHEDULE)
    return [answers[cell] for cell in trials], [len(one.screen) + len(one.confirm) for one in trials.values()]


def main() -> None:
    num_sweeps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    for machine in MACHINES:
        generator = np.random.default_rng(12)
        num_alarmed, num_pairs, open_cells = 0, 0, 0
        for _ in range(num_sweeps):
            answers, pairs = run_sweep(machine, [0.0] * 100, generator)
            num_alarmed += any(answer.answer == Answer.REGRESSION for answer in answers)
            open_cells += sum(answer.answer == Answer.INCONCLUSIVE for answer in answers)
            num_pairs += sum(pairs)
        bound = beta.ppf(0.95, num_alarmed + 1, num_sweeps - num_alarmed)
        print(
            f"{machine}: {num_alarmed} of {num_sweeps} sweeps of 100 equal cells alarm "
            f"(at most {bound:.1%}); "
            f"{open_cells / num_sweeps:.0f} % of cells inconclusive; "
            f"{num_pairs / num_sweeps / 100:.1f} pairs a cell",
            flush=True,
        )
        for change in (0.05, 0.10, 0.30):
            given: Counter[Answer] = Counter()
            num_in_ten = num_others = 0
            for _ in range(num_sweeps // 3):
                answers, pairs = run_sweep(machine, [change] + [0.0] * 49, generator)
                given[answers[0].answer] += 1
                num_in_ten += answers[0].answer == Answer.REGRESSION and pairs[0] <= 10
                num_others += any(answer.answer == Answer.REGRESSION for answer in answers[1:])
            total = num_sweeps // 3
            print(
                f"  {change:+.0%} in one of 50 cells: found {given[Answer.REGRESSION] / total:.0%} "
                f"({num_in_ten / total:.0%} in ten pairs), "
                f"inconclusive {given[Answer.INCONCLUSIVE] / total:.0%}, "
                f"another cell named in {num_others} of {total}",
                flush=True,
            )


if __name__ == "__main__":
    main()
