"""One try at a case: its arms are prepared, weighed, timed in rounds, checked again, and recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from gqabench.attention_impls.cost import kv_input_bytes
from gqabench.harness.cases.case import TRAIN_WORKLOAD, Arm, Case
from gqabench.harness.instruments.monitor import Trace
from gqabench.harness.machine.devices import why_not_here
from gqabench.harness.measure.arm_facts import ArmFacts
from gqabench.harness.measure.bench import Bench
from gqabench.harness.measure.rounds import Samples, Slice, Stream, measure_in_rounds
from gqabench.harness.measure.timed_row import timed_fields
from gqabench.harness.workers.process import RequestFailed, WorkerFailed, WorkerProcess
from gqabench.results import Outcome
from gqabench.results.flags import FLAG_MEASURED_ALONE, FLAG_WORKSPACE_UNSEEN, cache_flags

Write = Callable[[Arm, dict[str, Any]], None]
"""Takes an arm and the record fields that were found out of it."""


class ArmLost(Exception):
    """An arm took its worker with it: the other arms of the case have to start again."""

    def __init__(self, arm: Arm, failure: WorkerFailed) -> None:
        super().__init__(str(failure))
        self.arm = arm
        self.outcome = failure.outcome


class Attempt:
    """One try at measuring some arms of a case, in workers that hold no case yet."""

    def __init__(
        self, bench: Bench, case: Case, arms: list[Arm], write: Write, after_others: bool = False
    ) -> None:
        self._bench = bench
        self._instruments = bench.instruments
        self._case = case
        self._active = list(arms)
        self._facts = {arm: ArmFacts() for arm in arms}
        self._write = write
        self._opened: list[str] = []
        self._after_others = after_others
        self.crowded_out: list[Arm] = []
        """Arms without a record: their memory did not fit beside that of the others, but may alone"""

    def run(self) -> None:
        """Raises `ArmLost` when an arm ends its worker; `fail` has to be told of it."""
        for environment in dict.fromkeys(arm.environment for arm in self._active):
            self._open(environment)
        if self._active and self._case.measure.energy:
            self._instruments.energy.get_ready(self._uuid)
        self._each_arm(self._prepare)
        self._each_arm(self._weigh)
        timed, trace = self._time()
        self._each_arm(partial(self._finish, timed, trace))
        for environment in self._opened:
            try:
                closed = self._worker(environment).request("close_case", self._case.measure.timeout_s)
                is_spoilt = closed.get("is_spoilt", False)
            except (WorkerFailed, RequestFailed):
                is_spoilt = True
            if is_spoilt:  # every arm has its record: the next case gets a new worker
                self._bench.discard(environment)

    def fail(self, arm: Arm, outcome: str, reason: str, errors: dict[str, Any] | None = None) -> None:
        """Record that an arm ended without a measurement."""
        facts = self._facts[arm]
        facts.add(errors or {})
        self._record(arm, {**facts.fields, "outcome": Outcome(outcome), "reason": reason})

    @property
    def _uuid(self) -> str | None:
        """Of the case's GPU; None on a CPU."""
        device = self._device
        return None if device is None else device["uuid"]

    @property
    def _device(self) -> dict[str, Any] | None:
        return self._bench.device_facts(self._case)

    def _each_arm(self, step: Callable[[Arm], None]) -> None:
        for arm in list(self._active):
            with self._blaming(arm):
                step(arm)

    def _open(self, environment: str) -> None:
        """Make the inputs of the case; where that fails, all arms of the environment do."""
        case = self._case
        arms = [arm for arm in self._active if arm.environment == environment]
        host = self._bench.known_host(environment)
        if host is not None and (why_not := why_not_here(case.problem.device, case.problem.dtype, host)):
            for arm in arms:
                self.fail(arm, Outcome.UNSUPPORTED, why_not)
            return
        try:
            opened = self._make_inputs(environment)
        except RequestFailed as failure:
            outcome, reason = failure.outcome, f"making the inputs: {failure}"
        except WorkerFailed as failure:
            self._bench.discard(environment)
            what = "making the inputs" if host is not None else f"starting environment {environment}"
            outcome, reason = failure.outcome, f"{what}: {failure}"
        else:
            self._opened.append(environment)
            for arm in arms:
                self._facts[arm].add(opened)
            return
        for arm in arms:
            self.fail(arm, outcome, reason)

    def _make_inputs(self, environment: str) -> dict[str, Any]:
        """Open the case in the environment's worker; in a new one where an earlier case has spoilt it."""
        case = self._case
        for is_last in (False, True):
            try:
                return self._worker(environment).request(
                    "open_case", case.measure.timeout_s, **case.to_open()
                )
            except RequestFailed as failure:
                if failure.is_poisoned:
                    self._bench.discard(environment)
                if is_last or not failure.is_poisoned:
                    raise
        raise AssertionError("the second try returns or raises")

    def _prepare(self, arm: Arm) -> None:
        self._facts[arm].add(self._ask(arm, "prepare", impl=arm.target))

    def _weigh(self, arm: Arm) -> None:
        facts = self._facts[arm]
        facts.add(self._ask(arm, "weigh"))
        if self._uuid is None:
            return
        nvml = self._instruments.nvml
        process_bytes = nvml.process_memory_bytes(self._uuid, self._worker(arm.environment).pid)
        reserved = facts.fields["allocator_reserved_bytes"]
        facts.add(
            {
                "device_bytes": nvml.device_memory_bytes(self._uuid),
                "process_bytes": process_bytes,
                "unexplained_bytes": None if process_bytes is None else process_bytes - reserved,
            }
        )

    def _time(self) -> tuple[dict[Stream, Samples], Trace]:
        """Time the arms in rounds. An arm that fails on the way is dropped, and the rounds start again."""
        trace = Trace()
        while self._active:
            streams = [Stream(arm, state) for arm in self._active for state in self._case.measure.caches]
            worker = self._worker(self._active[0].environment)
            try:
                with self._instruments.monitor(self._uuid, worker.pid).watching() as watch:
                    timed = measure_in_rounds(streams, self._case.measure, self._case.seed, self._measure)
            except _ArmDropped:
                continue
            trace = watch.trace
            self._instruments.keep(self._case.case_id, self._case.problem.device, trace)
            return timed, trace
        return {}, trace

    def _measure(self, stream: Stream, num_calls: int) -> Slice:
        timed: Slice | None = None
        with self._blaming(stream.arm):
            is_cold = stream.cache_state == "cold"
            reply = self._ask(stream.arm, "measure", num_calls=num_calls, is_cold=is_cold)
            timed = Slice(reply["samples_ms"], reply["num_exposed"])
        if timed is None:
            raise _ArmDropped
        return timed

    def _finish(self, timed: dict[Stream, Samples], trace: Trace, arm: Arm) -> None:
        """Check a timed arm's output once more, measure what has a pass of its own, and record the arm."""
        self._facts[arm].add(self._ask(arm, "verify"))
        self._cross_check(arm)
        self._measure_energy(arm)
        self._record_ok(arm, timed, trace)

    def _cross_check(self, arm: Arm) -> None:
        """Time the calls in other ways too, where the device has others."""
        if self._uuid is None:
            return
        try:
            self._facts[arm].add(self._ask(arm, "cross_check"))
        except RequestFailed as failure:  # what was timed and checked stands
            if failure.is_poisoned:
                raise
            self._facts[arm].add({"graph_reason": f"timing in other ways failed: {failure}"})

    def _measure_energy(self, arm: Arm) -> None:
        case = self._case
        if not case.measure.energy:
            return

        def run_for(seconds: float) -> tuple[int, float]:
            reply = self._ask(arm, "run_for", seconds=seconds)
            return reply["num_calls"], reply["seconds"]

        num_tokens = case.problem.batch_size * case.problem.q_len
        self._facts[arm].add(self._instruments.energy.record_fields(self._uuid, run_for, num_tokens))

    def _record_ok(self, arm: Arm, timed: dict[Stream, Samples], trace: Trace) -> None:
        case, bench = self._case, self._bench
        samples = {state: timed[Stream(arm, state)] for state in case.measure.caches}
        fields = timed_fields(case, samples, trace)
        device = self._device
        assert device is not None
        roof = self._instruments.roofs.fields(
            case,
            fields,
            device,
            bench.host(arm.environment),
            lambda: self._worker(arm.environment),
        )
        facts = self._facts[arm].fields
        cache = cache_flags(
            kv_cache_bytes=facts["kv_cache_bytes"],
            prepared_bytes=facts["prepared_bytes"],
            given_bytes=kv_input_bytes(case.problem),
            other_bytes=preparation_bytes(case),
            unseen_bytes=facts.get("prepared_unseen_bytes"),
        )
        workspace = [FLAG_WORKSPACE_UNSEEN] if facts.get("unseen_workspace_bytes") else []
        alone = [FLAG_MEASURED_ALONE] if self._after_others else []
        flags = [*fields.pop("flags"), *roof.pop("flags"), *cache, *workspace, *alone]
        self._record(arm, {**facts, **fields, **roof, "outcome": Outcome.OK, "flags": flags})

    def _record(self, arm: Arm, fields: dict[str, Any]) -> None:
        device = self._device
        known = {**self._case.model_fields(), "device_name": None if device is None else device["name"]}
        self._write(arm, known | fields)
        self._active.remove(arm)

    def _ask(self, arm: Arm, op: str, **arguments: Any) -> dict[str, Any]:
        timeout_s = self._case.measure.timeout_s
        return self._worker(arm.environment).request(op, timeout_s, arm=arm.label, **arguments)

    @contextmanager
    def _blaming(self, arm: Arm) -> Iterator[None]:
        """What goes wrong inside is this arm's: a row, or the loss of its worker."""
        try:
            yield
        except RequestFailed as failure:
            if failure.outcome == Outcome.OOM and len(self._facts) > 1:
                self._active.remove(arm)
                self.crowded_out.append(arm)
            else:
                self.fail(arm, failure.outcome, str(failure), failure.errors)
            self._drop(arm, failure)
        except WorkerFailed as failure:
            raise ArmLost(arm, failure) from failure

    def _drop(self, arm: Arm, failure: RequestFailed) -> None:
        """Have the worker forget an arm. Raises `ArmLost` when it cannot go on measuring others."""
        if failure.is_poisoned:
            raise ArmLost(arm, WorkerFailed(failure.outcome, str(failure))) from failure
        try:
            self._worker(arm.environment).request("drop", self._case.measure.timeout_s, arm=arm.label)
        except WorkerFailed as gone:
            raise ArmLost(arm, gone) from gone

    def _worker(self, environment: str) -> WorkerProcess:
        return self._bench.worker(environment)


def preparation_bytes(case: Case) -> int | None:
    """The most that `prepare` may well keep besides a cache; None where it keeps a whole layer or model.

    A mask of float32 and one of bytes; queries and outputs in a layout of its own; half of the cache for
    tables and scales; what libraries plan in (FlashInfer asks for 128 MiB on a GPU).
    """
    problem = case.problem
    if case.workload not in {"decode", "prefill", "extend", TRAIN_WORKLOAD}:
        return None
    masks = 5 * problem.batch_size * problem.q_len * problem.kv_len
    queries = (
        2 * problem.batch_size * problem.num_q_heads * problem.q_len * problem.head_dim * problem.itemsize
    )
    return (
        masks
        + queries
        + kv_input_bytes(problem) // 2
        + (2**20 if problem.device_type == "cpu" else 160 * 2**20)
    )


class _ArmDropped(Exception):
    """An arm failed while it was timed; its row is written."""
