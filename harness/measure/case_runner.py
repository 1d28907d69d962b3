"""Runs cases: makes attempts at one until each of its arms has a record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gqabench.harness.cases.case import Arm, Case, InvalidCase
from gqabench.harness.cases.identity import cell_id
from gqabench.harness.measure.attempt import ArmLost, Attempt
from gqabench.harness.measure.equipment import Equipment
from gqabench.results import Outcome, Record

OnRecord = Callable[[Record], None]


@dataclass
class CaseRunner:
    """Measures cases with warm workers. One runner serves all cases of a process."""

    run_id: str
    equipment: Equipment

    def run(self, case: Case, on_record: OnRecord) -> None:
        """Measure every arm; `on_record` gets each record as soon as it exists.

        Arms whose memory did not fit beside that of the others come again afterwards, each alone.
        """
        for arm in self._run_together(case, list(case.arms), on_record):
            self._run_together(case, [arm], on_record, after_others=True)

    def _run_together(
        self, case: Case, arms: list[Arm], on_record: OnRecord, after_others: bool = False
    ) -> list[Arm]:
        """Measure arms in turn, anew whenever one takes its worker with it; return those that did not fit."""
        while arms:
            recorded: set[Arm] = set()

            def record(arm: Arm, fields: dict[str, Any], recorded: set[Arm] = recorded) -> None:
                on_record(self._record(case, arm, fields))
                recorded.add(arm)

            attempt = Attempt(self.equipment, case, arms, record, after_others)
            try:
                attempt.run()
                return attempt.crowded_out
            except ArmLost as lost:
                self.equipment.discard(lost.arm.environment)
                if lost.arm not in recorded:
                    attempt.fail(lost.arm, lost.outcome, str(lost))
                arms = [arm for arm in arms if arm not in recorded]
        return []

    def run_invalid(self, case: InvalidCase, on_record: OnRecord) -> None:
        """Record that a point's values do not go together."""
        for arm in case.arms:
            on_record(self._record(case, arm, {"outcome": Outcome.UNSUPPORTED, "reason": case.reason}))

    def cell_id(self, case: Case | InvalidCase, arm: Arm) -> str:
        """Return the identity of a measurement: see `gqabench.harness.cases.identity`."""
        environment = self.equipment.environments[arm.environment]
        return cell_id(case, arm, self.equipment.known_host(arm.environment), environment.source_root)

    def _record(self, case: Case | InvalidCase, arm: Arm, fields: dict[str, Any]) -> Record:
        return Record(
            run_id=self.run_id,
            case_id=case.case_id,
            cell_id=self.cell_id(case, arm),
            impl=arm.impl,
            environment=arm.environment,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            **case.shape_fields() | fields,
        )
