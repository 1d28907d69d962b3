"""What a worker can be asked about a case: a method for each operation, with its typed reply.

The names on the wire are older than the methods: workers of older revisions know no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gqabench.harness.workers.process import WorkerProcess
from gqabench.harness.workers.replies import (
    ArmPrepared,
    CallMemory,
    CallsMade,
    CallTimes,
    CaseClosed,
    CaseOpened,
    CrossCheck,
    Nothing,
    OutputErrors,
)


@dataclass(frozen=True)
class Operations:
    """A worker's operations. Each raises `RequestFailed`, or `WorkerFailed` when it hangs or ends."""

    worker: WorkerProcess
    timeout_s: float

    def open_case(self, case: dict[str, Any]) -> CaseOpened:
        """Make the inputs and the reference; `case` is what `Case.to_open` returns."""
        return self.worker.ask(CaseOpened, "open_case", self.timeout_s, **case)

    def close_case(self) -> CaseClosed:
        """Free everything that the case holds."""
        return self.worker.ask(CaseClosed, "close_case", self.timeout_s)

    def prepare(self, arm: str, impl: str) -> ArmPrepared:
        """Set an arm up, and check its first outputs."""
        return self.worker.ask(ArmPrepared, "prepare", self.timeout_s, arm=arm, impl=impl)

    def measure_memory(self, arm: str) -> CallMemory:
        """Measure the memory of one call."""
        return self.worker.ask(CallMemory, "weigh", self.timeout_s, arm=arm)

    def time_calls(self, arm: str, num_calls: int, is_cold: bool) -> CallTimes:
        """Time some calls, with or without flushing the last-level cache before each."""
        return self.worker.ask(
            CallTimes, "measure", self.timeout_s, arm=arm, num_calls=num_calls, is_cold=is_cold
        )

    def verify(self, arm: str) -> OutputErrors:
        """Check an output on queries that the arm has not met."""
        return self.worker.ask(OutputErrors, "verify", self.timeout_s, arm=arm)

    def cross_check(self, arm: str) -> CrossCheck:
        """Time calls on a GPU in other ways."""
        return self.worker.ask(CrossCheck, "cross_check", self.timeout_s, arm=arm)

    def run_for(self, arm: str, seconds: float) -> CallsMade:
        """Call back to back."""
        return self.worker.ask(CallsMade, "run_for", self.timeout_s, arm=arm, seconds=seconds)

    def drop(self, arm: str) -> None:
        """Free what an arm holds."""
        self.worker.ask(Nothing, "drop", self.timeout_s, arm=arm)
