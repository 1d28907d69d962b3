"""One try at a case: its arms are prepared, profiled, timed in rounds, checked again, and recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from gqabench.harness.cases.case import Arm, Case
from gqabench.harness.instruments.monitor import Trace
from gqabench.harness.machine.host import Device
from gqabench.harness.measure.arm_facts import ArmFacts
from gqabench.harness.measure.equipment import Equipment
from gqabench.harness.measure.opening import NotOpened, close_case, open_case
from gqabench.harness.measure.rounds import Samples, TimedArm, measure_in_rounds
from gqabench.harness.measure.run_load import RunLoad
from gqabench.harness.measure.timed_row import timed_fields
from gqabench.harness.workers.operations import Operations
from gqabench.harness.workers.process import RequestFailed, WorkerFailed
from gqabench.harness.workers.replies import CallTimes
from gqabench.results import Outcome
from gqabench.results.flags import FLAG_MEASURED_ALONE

Write = Callable[[Arm, dict[str, Any]], None]
"""Takes an arm and the record fields that were measured of it."""


class ArmLost(Exception):
    """An arm took its worker with it: the other arms of the case have to start again."""

    def __init__(self, arm: Arm, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.arm = arm
        self.outcome = outcome


class Attempt:
    """One try at measuring some arms of a case, in workers that hold no case yet."""

    def __init__(
        self, equipment: Equipment, case: Case, arms: list[Arm], write: Write, after_others: bool = False
    ) -> None:
        self._equipment = equipment
        self._instruments = equipment.instruments
        self._case = case
        self._active = list(arms)
        self._facts = {arm: ArmFacts() for arm in arms}
        self._write = write
        self._after_others = after_others
        self.crowded_out: list[Arm] = []
        """Arms without a record: their memory did not fit beside that of the others, but may alone"""

    def run(self) -> None:
        """Measure the arms. Raises `ArmLost` when an arm ends its worker; call `fail` with it then."""
        environments = dict.fromkeys(arm.environment for arm in self._active)
        opened = [environment for environment in environments if self._open(environment)]
        if self._active and self._case.measure.energy:
            self._instruments.energy.get_ready(self._uuid)
        self._each_arm(self._prepare)
        self._each_arm(self._measure_memory)
        timed, trace = self._time()
        self._each_arm(partial(self._finish, timed, trace))
        for environment in opened:
            close_case(self._equipment, self._case, environment)

    def fail(self, arm: Arm, outcome: str, reason: str) -> None:
        """Record that an arm ended without a measurement."""
        self._record(arm, {**self._facts[arm].fields, "outcome": Outcome(outcome), "reason": reason})

    @property
    def _device(self) -> Device | None:
        return self._equipment.device_of(self._case)

    @property
    def _uuid(self) -> str | None:
        """Of the case's GPU; None on a CPU."""
        device = self._device
        return None if device is None else device.uuid

    def _ask(self, arm: Arm) -> Operations:
        return Operations(self._equipment.worker(arm.environment), self._case.measure.timeout_s)

    def _each_arm(self, step: Callable[[Arm], None]) -> None:
        for arm in list(self._active):
            with self._blaming(arm):
                step(arm)

    def _open(self, environment: str) -> bool:
        """Open the case in an environment; where that fails, all its arms do."""
        arms = [arm for arm in self._active if arm.environment == environment]
        try:
            opened = open_case(self._equipment, self._case, environment)
        except NotOpened as failure:
            for arm in arms:
                self.fail(arm, failure.outcome, str(failure))
            return False
        for arm in arms:
            self._facts[arm].add(opened)
        return True

    def _prepare(self, arm: Arm) -> None:
        self._facts[arm].add_prepared(self._case, self._ask(arm).prepare(arm.label, arm.target))

    def _measure_memory(self, arm: Arm) -> None:
        facts, uuid = self._facts[arm], self._uuid
        memory = self._ask(arm).measure_memory(arm.label)
        facts.add_memory(memory)
        if uuid is None:
            return
        nvml, reserved = self._instruments.nvml, memory.allocator_reserved_bytes
        process_bytes = nvml.process_memory_bytes(uuid, self._equipment.worker(arm.environment).pid)
        facts.add_fields(
            {
                "device_bytes": nvml.device_memory_bytes(uuid),
                "process_bytes": process_bytes,
                "unexplained_bytes": (
                    None if process_bytes is None or reserved is None else process_bytes - reserved
                ),
            }
        )

    def _time(self) -> tuple[dict[TimedArm, Samples], Trace]:
        """Time the arms in rounds. An arm that fails on the way is dropped, and the rounds start again."""
        case = self._case
        while self._active:
            timed_arms = [TimedArm(arm, state) for arm in self._active for state in case.measure.caches]
            environments = dict.fromkeys(arm.environment for arm in self._active)
            pids = {name: self._equipment.worker(name).pid for name in environments}
            time_calls = partial(self._time_calls, RunLoad(pids))
            try:
                with self._instruments.monitor(self._uuid, next(iter(pids.values()))).watching() as watch:
                    timed = measure_in_rounds(timed_arms, case.measure, case.seed, time_calls)
            except _ArmDropped:
                continue
            self._instruments.keep(case.case_id, case.problem.device, watch.trace)
            return timed, watch.trace
        return {}, Trace()

    def _time_calls(self, own_load: RunLoad, timed: TimedArm, num_calls: int) -> CallTimes:
        arm = timed.arm
        with self._blaming(arm):
            ask = self._ask(arm)
            before, began_s = own_load.cpu_seconds(arm.environment), time.monotonic()
            times = ask.time_calls(arm.label, num_calls, is_cold=timed.cache_state == "cold")
            elapsed_s, after = time.monotonic() - began_s, own_load.cpu_seconds(arm.environment)
            taken = {name: max(after[name] - before[name], 0.0) / elapsed_s for name in after}
            return replace(times, busy_cores=times.busy_cores | taken)
        raise _ArmDropped

    def _finish(self, timed: dict[TimedArm, Samples], trace: Trace, arm: Arm) -> None:
        """Check a timed arm's output once more, measure what has a pass of its own, and record the arm."""
        self._facts[arm].add(self._ask(arm).verify(arm.label))
        if self._uuid is not None:
            self._cross_check(arm)
        if self._case.measure.energy:
            self._measure_energy(arm)
        self._record_ok(arm, timed, trace)

    def _cross_check(self, arm: Arm) -> None:
        """Time a GPU's calls in other ways too. What was timed and checked stands where that fails."""
        try:
            self._facts[arm].add(self._ask(arm).cross_check(arm.label))
        except RequestFailed as refused:
            if refused.failure.is_poisoned:
                raise
            self._facts[arm].add_fields({"graph_reason": f"timing by other methods failed: {refused}"})

    def _measure_energy(self, arm: Arm) -> None:
        problem = self._case.problem

        def run_for(seconds: float) -> tuple[int, float]:
            made = self._ask(arm).run_for(arm.label, seconds)
            return made.num_calls, made.seconds

        energy = self._instruments.energy.record_fields(
            self._uuid, run_for, num_tokens=problem.batch_size * problem.q_len
        )
        self._facts[arm].add_fields(energy)

    def _record_ok(self, arm: Arm, timed: dict[TimedArm, Samples], trace: Trace) -> None:
        """Record a measurement; `timed` has those of all arms, with which it is compared."""
        case, equipment, device, facts = self._case, self._equipment, self._device, self._facts[arm]
        assert device is not None, "what was timed has a device"
        fields = timed_fields(case, arm, timed, trace)
        host = equipment.host(arm.environment)
        roof = self._instruments.roofs.fields(
            case, fields, device, host, lambda: equipment.worker(arm.environment)
        )
        alone = [FLAG_MEASURED_ALONE] if self._after_others else []
        flags = [*fields.pop("flags"), *roof.pop("flags"), *facts.flags, *alone]
        self._record(arm, {**facts.fields, **fields, **roof, "outcome": Outcome.OK, "flags": flags})

    def _record(self, arm: Arm, fields: dict[str, Any]) -> None:
        device = self._device
        known = {**self._case.model_fields(), "device_name": None if device is None else device.name}
        self._write(arm, known | fields)
        self._active.remove(arm)

    @contextmanager
    def _blaming(self, arm: Arm) -> Iterator[None]:
        """Let what goes wrong inside be this arm's: a row, or the loss of its worker."""
        try:
            yield
        except RequestFailed as refused:
            failure = refused.failure
            if failure.outcome == Outcome.OOM and len(self._facts) > 1:
                self._active.remove(arm)
                self.crowded_out.append(arm)
            else:
                self._facts[arm].add_fields(
                    {"max_error": failure.max_error, "error_ratio": failure.error_ratio}
                )
                self.fail(arm, failure.outcome, failure.reason)
            if failure.is_poisoned:
                raise ArmLost(arm, failure.outcome, failure.reason) from refused
            self._drop(arm)
        except WorkerFailed as gone:
            raise ArmLost(arm, gone.outcome, str(gone)) from gone

    def _drop(self, arm: Arm) -> None:
        """Have the worker forget an arm. Raises `ArmLost` when it answers no more."""
        try:
            self._ask(arm).drop(arm.label)
        except WorkerFailed as gone:
            raise ArmLost(arm, gone.outcome, str(gone)) from gone


class _ArmDropped(Exception):
    """An arm failed while it was timed; its row is written."""
