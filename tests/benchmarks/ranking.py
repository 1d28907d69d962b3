"""Do runs of a study rank its implementations alike? Run it on a quiet machine.

`python tests/benchmarks/ranking.py [STUDY [key=value ...]]` runs the study (default: peers) three times. It
prints how long each took, who was ahead in each case, and of all pairs of implementations how many some run
tells apart (the intervals do not overlap) and how many two runs order differently, though both are sure.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import combinations

import pandas as pd
from command_line import run_sweep

NUM_RUNS = 3


def main() -> None:
    study, *overrides = sys.argv[1:] or ["peers"]
    runs = []
    for number in range(NUM_RUNS):
        frame, seconds = run_sweep([f"study={study}", *overrides])
        print(f"run {number + 1}: {seconds:.0f} s", flush=True)
        runs.append(frame[frame.outcome == "ok"])
    for case_id in runs[0].case_id.unique():
        print(*case_lines([run[run.case_id == case_id] for run in runs]), sep="\n")


def case_lines(runs: list[pd.DataFrame]) -> Iterator[str]:
    """What a person reads of one case: each run's ranking, then the pairs of implementations."""
    first = runs[0].iloc[0]
    yield " ".join(f"{key}={first[key]}" for key in ("batch_size", "kv_len", "num_kv_heads", "dtype"))
    for run in runs:
        ranked = run.sort_values("latency_ms")
        yield "  " + ", ".join(f"{one.impl} {one.latency_ms:.3g}" for one in ranked.itertuples()) + " ms"
    impls = sorted(set.intersection(*(set(run.impl) for run in runs)))
    orders = [{ahead(run, pair) for run in runs} - {None} for pair in combinations(impls, 2)]
    told_apart = sum(len(order) > 0 for order in orders)
    reordered = sum(len(order) > 1 for order in orders)
    yield f"  of {len(orders)} pairs {told_apart} are told apart, {reordered} ordered differently"


def ahead(run: pd.DataFrame, pair: tuple[str, str]) -> str | None:
    """The faster of two, or None where their intervals overlap or one has none."""
    rows = [run[run.impl == impl].iloc[0] for impl in pair]
    for one, other in (rows, rows[::-1]):
        if one.latency_ci_high_ms < other.latency_ci_low_ms:
            return str(one.impl)
    return None


if __name__ == "__main__":
    main()
