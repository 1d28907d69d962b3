"""Two sides of runs made up in memory: arms by cases, machines of `noise`, and an environment that moves."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from gqabench.results.comparison.measured_cells import CellValues
from gqabench.results.comparison.verdicts import CellKey
from tests.results.noise import MACHINES


def made_up_sides(
    generator: np.random.Generator,
    *,
    num_cases: int = 5,
    num_arms: int = 4,
    num_runs: int = 3,
    shift: float = 0.0,
    slower: Mapping[tuple[int, int], float] | None = None,
    machine: str = "quiet",
    run_spread: float = 0.01,
) -> dict[CellKey, CellValues]:
    """Cells with a value of each run of both sides.

    `shift` is what the environment of the new side does to all, `slower` what single cells (case, arm) do
    themselves; `run_spread` is the standard deviation of what each run does to all of its cells.
    """
    of_runs = generator.normal(0, run_spread, 2 * num_runs)
    of_runs[num_runs:] += math.log1p(shift)
    cells = {}
    for case in range(num_cases):
        for arm in range(num_arms):
            own = math.log1p((slower or {}).get((case, arm), 0.0))
            logs = 0.3 * case + 0.5 * arm + of_runs + MACHINES[machine](generator, 2 * num_runs)
            logs[num_runs:] += own
            values = [{f"run-{place}": math.exp(log) for place, log in enumerate(side)}
                      for side in (logs[:num_runs], logs[num_runs:])]  # fmt: skip
            cell = CellKey(f"case{case}", f"arm{arm}")
            cells[cell] = CellValues(values[0], values[1], 0.003, 0.02, {"impl": f"arm{arm}"})
    return cells
