"""How often a moved environment is said, and kernels are named beside it, on machines made up.

`python tests/benchmarks/environment_rates.py [TRIES]` prints, for each kind of machine and for one and three
runs a side, in which share of tries a moved environment is said, or suspected; in which every slower cell is
named, by its latency or its ratio, and in which another one is. 20 cells: four arms in five cases. ADR 23
quotes it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, from anywhere

from gqabench.results.comparison.environment_verdicts import common_change, moved_with, relative_verdicts
from gqabench.results.comparison.metrics import LATENCY
from gqabench.results.comparison.policy import Policy, Rule
from gqabench.results.comparison.scattering_verdicts import judge_cells
from gqabench.results.comparison.verdicts import Answer
from tests.results.moved_runs import made_up_sides
from tests.results.noise import MACHINES

POLICY = Policy("default", {"latency_ms": Rule(0.02)})
ALL_OF_ONE_ARM = {(case, 3): 0.15 for case in range(5)}
SITUATIONS: dict[str, dict[str, Any]] = {
    "nothing moved": {},
    "runs scatter by 5 %": {"run_spread": 0.05},
    "environment +10 %": {"shift": 0.1},
    "environment +10 %, a cell +20 %": {"shift": 0.1, "slower": {(2, 1): 0.2}},
    "environment +10 %, a cell +50 %": {"shift": 0.1, "slower": {(2, 1): 0.5}},
    "environment +10 %, an arm +15 %": {"shift": 0.1, "slower": ALL_OF_ONE_ARM},
    "an arm +15 %": {"slower": ALL_OF_ONE_ARM},
}


def rates(num_tries: int, **sides: Any) -> tuple[float, float, float, float]:
    """Shares of tries: a move was said, or suspected; every slower cell was named; another cell was."""
    generator = np.random.default_rng(23)
    slower = {(f"case{case}", f"arm{arm}") for case, arm in sides.get("slower", {})}
    counts = np.zeros(4)
    for _ in range(num_tries):
        cells = made_up_sides(generator, **sides)
        common = common_change(cells, POLICY.assumed_run_spread)
        latencies = [moved_with(one, common) for one in judge_cells(cells, LATENCY, POLICY)]
        verdicts = [*latencies, *relative_verdicts(cells, common, POLICY)]
        named = {(one.cell.case_id, one.cell.impl) for one in verdicts if one.answer is Answer.REGRESSION}
        said = common is not None and common.is_beyond_runs
        suspected = common is not None and not said
        counts += said, suspected, bool(slower) and slower <= named, bool(named - slower)
    said_share, suspected_share, found, wrong = counts / num_tries
    return said_share, suspected_share, found, wrong


def main() -> None:
    num_tries = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    for machine in MACHINES:
        for num_runs in (3, 1):
            for name, sides in SITUATIONS.items():
                said, suspected, found, wrong = rates(
                    num_tries, **{"machine": machine, "num_runs": num_runs} | sides
                )
                print(
                    f"{machine}, {num_runs} a side, {name}: moved {said:.1%}, suspected {suspected:.1%}, "
                    f"slower ones named {found:.1%}, another named {wrong:.1%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
