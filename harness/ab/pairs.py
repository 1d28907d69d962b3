"""Pairs of fresh processes: both sides of an A/B measure the same cells, in the same rounds."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gqabench.harness.cases.case import Arm, Case, MeasureSettings
from gqabench.harness.instruments.instrument_set import Instruments
from gqabench.harness.instruments.roof_gauge import RoofGauge
from gqabench.harness.machine.nvml import open_nvml
from gqabench.harness.measure.case_runner import CaseRunner
from gqabench.harness.measure.equipment import Equipment
from gqabench.harness.workers.environments import Environment
from gqabench.harness.workers.pool import WorkerPool
from gqabench.results import Record
from gqabench.results.comparison.verdicts import CellKey, cell_key

BASE = "base"
NEW = "head"

Row = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """The records of two fresh processes for the same cells, by cell."""

    base: Mapping[CellKey, Row]
    new: Mapping[CellKey, Row]


_SECONDS_PER_PAIR = 3.0
"""As long as two processes take to start: beyond it another pair tells more."""
_FEWEST_SECONDS_PER_ARM = 0.2


def shared_out(measure: MeasureSettings, num_arms: int) -> MeasureSettings:
    """Return settings for a pair of processes that measures so many arms, those of both sides.

    Of few cells each gets all that the settings allow: the processes have to start anyway. Of many each gets
    less, since another pair tells more than longer processes do.
    """
    seconds = max(_FEWEST_SECONDS_PER_ARM, _SECONDS_PER_PAIR / num_arms)
    return replace(measure, seconds_per_arm=min(measure.seconds_per_arm, seconds))


@dataclass
class PairRunner:
    """Measures cells in pairs of fresh processes, in a new random order each time."""

    environments: Mapping[str, Environment]
    """By side: `BASE` and `NEW`."""
    cases: Sequence[Case]
    """Their arms are the implementations to compare, in the current environment."""
    seed: int = 0
    num_pairs: int = 0
    is_shared_out: bool = True
    """Whether arms get less time where there are many; else each gets what its settings say"""

    def run(self, cells: Collection[CellKey] | None = None) -> Pair:
        """Measure one pair, of the given cells or of all. Raises `UsageError` if a side cannot be used."""
        order = random.Random(f"{self.seed}/{self.num_pairs}")
        rows: dict[str, dict[CellKey, Row]] = {BASE: {}, NEW: {}}
        pool = WorkerPool()
        equipment = Equipment(pool, dict(self.environments), Instruments(open_nvml(), RoofGauge({})))
        runner = CaseRunner("ab", equipment)
        try:
            pool.hosts(order.sample(list(self.environments.values()), 2))

            def keep(record: Record) -> None:
                row = record.to_dict()
                rows[record.environment][cell_key(row | {"environment": "current"})] = row

            for case in self._asked_of(cells, order):
                runner.run(case, keep)
        finally:
            pool.close()
        self.num_pairs += 1
        return Pair(rows[BASE], rows[NEW])

    def _asked_of(self, cells: Collection[CellKey] | None, order: random.Random) -> list[Case]:
        """Return the cases that have some of the cells, with both sides of these alone, in random order."""
        asked = []
        for case in order.sample(list(self.cases), len(self.cases)):
            arms = [arm for arm in case.arms if cells is None or _key(case, arm) in cells]
            sides = [replace(arm, environment=side) for arm in arms for side in order.sample([BASE, NEW], 2)]
            if sides:
                asked.append(replace(case, arms=tuple(sides), seed=self.seed + self.num_pairs))
        if not self.is_shared_out:
            return asked
        num_arms = sum(len(case.arms) * len(case.measure.caches) for case in asked)
        return [replace(case, measure=shared_out(case.measure, num_arms)) for case in asked]

    def libraries(self) -> dict[str, dict[str, str]]:
        """Return the library versions of each side.

        Raises `UsageError` or `WorkerFailed` if a side does not start.
        """
        pool = WorkerPool()
        try:
            pool.hosts(self.environments.values())
            hosts = {side: pool.host(one) for side, one in self.environments.items()}
            return {side: {**host.libraries, "python": host.python} for side, host in hosts.items()}
        finally:
            pool.close()


def _key(case: Case, arm: Arm) -> CellKey:
    return CellKey(case.case_id, arm.impl)
