"""Runs one case: prepares and checks its arms, weighs them, times them in rounds, and makes their records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from harness.case import CURRENT_ENVIRONMENT, Arm, Case, InvalidCase
from harness.cell import cell_id
from harness.nvml import Nvml
from harness.roofs import Roofs, ask_for_roofs, measure_roofs_again
from harness.rounds import Samples, Stream, measure_in_rounds
from harness.worker_pool import WorkerPool
from harness.worker_process import Environment, RequestFailed, WorkerFailed, WorkerProcess
from results import Outcome, Record
from results.derive import rate_fields, timing_fields
from results.flags import FLAG_WARM_SUSPECT, sample_flags
from results.statistics import median

OnRecord = Callable[[Record], None]

_ERRORS = ("max_error", "error_ratio")


class ArmLost(Exception):
    """An arm took its worker with it: the other arms of the case have to start again."""

    def __init__(self, arm: Arm, failure: WorkerFailed) -> None:
        super().__init__(str(failure))
        self.arm = arm
        self.outcome = failure.outcome


@dataclass
class _ArmFacts:
    """What has been learnt of one arm so far, as record fields."""

    fields: dict[str, Any] = field(default_factory=dict)

    def add(self, reply: dict[str, Any]) -> None:
        """Of errors the largest is kept, of all else the latest."""
        for key, value in reply.items():
            known = self.fields.get(key)
            is_smaller = key in _ERRORS and known is not None and (value is None or value < known)
            if key != "ok" and not is_smaller:
                self.fields[key] = value


@dataclass
class CaseRunner:
    """Measures cases with warm workers. One runner serves all cases of a process."""

    run_id: str
    pool: WorkerPool
    nvml: Nvml
    environments: dict[str, Environment]
    roofs: dict[str, Roofs] = field(default_factory=dict)
    """Measured ceilings by device; none where they were not asked for."""
    _beaten: set[str] = field(default_factory=set)

    def run(self, case: Case, on_record: OnRecord) -> None:
        """Measure every arm; `on_record` gets each record as soon as it exists."""
        remaining = list(case.arms)
        while remaining:
            attempt = _Attempt(self, case, remaining, on_record)
            try:
                attempt.run()
                return
            except ArmLost as lost:
                self.pool.discard(self.environments[lost.arm.environment])
                attempt.fail(lost.arm, lost.outcome, str(lost))
                remaining = [arm for arm in remaining if arm not in attempt.recorded]

    def run_invalid(self, case: InvalidCase, on_record: OnRecord) -> None:
        """Record that a point's values do not go together."""
        for arm in case.arms:
            on_record(self._record(case, arm, {"outcome": Outcome.UNSUPPORTED, "reason": case.reason}))

    def cell_id(self, case: Case | InvalidCase, arm: Arm) -> str:
        """Identity of a measurement: see `harness.cell`."""
        return cell_id(case, arm, self.pool.host(self.environments[arm.environment]))

    def device_facts(self, case: Case) -> dict[str, Any]:
        """The worker's description of the case's device."""
        wanted = "cuda:0" if case.problem.device == "cuda" else case.problem.device
        host = self.pool.host(self.environments[case.arms[0].environment])
        return next(device for device in host["devices"] if device["device"] == wanted)

    def roof_fields(self, case: Case, latency_ms: float, rates: dict[str, Any]) -> dict[str, Any]:
        """The record's roof and share of it, and `is_warm_suspect`: whether it was beaten."""
        device = self.device_facts(case)
        roofs = self.roofs.get(device["device"])
        if roofs is None:
            return {"roof": None, "roof_fraction": None, "is_warm_suspect": False}
        if roofs.is_beaten_by(rates["achieved_gb_per_s"]) and device["device"] not in self._beaten:
            # Either the caches were not cold, or the roof was measured while something disturbed: look again.
            self._beaten.add(device["device"])
            environment = self.environments[case.arms[0].environment]
            worker = self.pool.ready(environment)
            with suppress(RequestFailed):  # then the roofs that there are have to do
                roofs = measure_roofs_again(
                    device, self.pool.host(environment), partial(ask_for_roofs, worker, device)
                )
            self.roofs[device["device"]] = roofs
        model = case.model_fields()
        fields = roofs.record_fields(
            latency_ms, model["model_bytes"], model["model_flops"], case.problem.dtype
        )
        return fields | {"is_warm_suspect": roofs.is_warm_suspect(rates["achieved_gb_per_s"])}

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


class _Attempt:
    """One try at measuring some arms of a case, in workers that hold no case yet."""

    def __init__(self, runner: CaseRunner, case: Case, arms: list[Arm], on_record: OnRecord) -> None:
        self._runner = runner
        self._case = case
        self._active = list(arms)
        self._facts = {arm: _ArmFacts() for arm in arms}
        self._on_record = on_record
        self.recorded: set[Arm] = set()

    def run(self) -> None:
        for environment in dict.fromkeys(arm.environment for arm in self._active):
            self._open(environment)
        for step in (self._prepare, self._weigh):
            for arm in list(self._active):
                with self._blaming(arm):
                    step(arm)
        timed = self._time()
        for arm in list(self._active):
            with self._blaming(arm):
                self._verify(arm)
                self._record_ok(arm, timed)
        for environment in dict.fromkeys(arm.environment for arm in self._case.arms):
            self._worker(environment).request("close_case", self._case.measure.timeout_s)

    def fail(self, arm: Arm, outcome: str, reason: str, errors: dict[str, Any] | None = None) -> None:
        """Record that an arm ended without a measurement."""
        facts = self._facts[arm]
        facts.add(errors or {})
        self._record(arm, {**facts.fields, "outcome": Outcome(outcome), "reason": reason})

    def _open(self, environment: str) -> None:
        """Make the inputs of the case; where that fails, all arms of the environment do."""
        case = self._case
        arms = [arm for arm in self._active if arm.environment == environment]
        try:
            opened = self._worker(environment).request(
                "open_case",
                case.measure.timeout_s,
                problem=asdict(case.problem),
                workload=case.workload,
                hidden_size=case.hidden_size,
                seed=case.seed,
                max_check_gflop=case.measure.max_check_gflop,
            )
        except RequestFailed as failure:
            outcome, reason = failure.outcome, f"making the inputs: {failure}"
        except WorkerFailed as failure:
            self._runner.pool.discard(self._runner.environments[environment])
            outcome, reason = failure.outcome, f"making the inputs: {failure}"
        else:
            for arm in arms:
                self._facts[arm].add(opened)
            return
        for arm in arms:
            self.fail(arm, outcome, reason)

    def _prepare(self, arm: Arm) -> None:
        self._facts[arm].add(self._ask(arm, "prepare", impl=arm.impl))

    def _weigh(self, arm: Arm) -> None:
        facts = self._facts[arm]
        facts.add(self._ask(arm, "weigh"))
        uuid = self._runner.device_facts(self._case)["uuid"]
        if uuid is not None:
            process_bytes = self._runner.nvml.process_memory_bytes(uuid, self._worker(arm.environment).pid)
            reserved = facts.fields["allocator_reserved_bytes"]
            facts.add(
                {
                    "device_bytes": self._runner.nvml.device_memory_bytes(uuid),
                    "process_bytes": process_bytes,
                    "unexplained_bytes": None if process_bytes is None else process_bytes - reserved,
                }
            )

    def _time(self) -> dict[Stream, Samples]:
        """Time the arms in rounds. An arm that fails on the way is dropped, and the rounds start again."""
        while self._active:
            streams = [Stream(arm, state) for arm in self._active for state in self._case.measure.caches]
            try:
                return measure_in_rounds(streams, self._case.measure, self._case.seed, self._measure)
            except _ArmDropped:
                continue
        return {}

    def _measure(self, stream: Stream, num_calls: int) -> list[float]:
        samples_ms: list[float] | None = None
        with self._blaming(stream.arm):
            is_cold = stream.cache_state == "cold"
            samples_ms = self._ask(stream.arm, "measure", num_calls=num_calls, is_cold=is_cold)["samples_ms"]
        if samples_ms is None:
            raise _ArmDropped
        return samples_ms

    def _verify(self, arm: Arm) -> None:
        self._facts[arm].add(self._ask(arm, "verify"))

    def _record_ok(self, arm: Arm, timed: dict[Stream, Samples]) -> None:
        case = self._case
        state, *other_states = case.measure.caches
        samples = timed[Stream(arm, state)]
        timing = timing_fields(samples.samples_ms)
        if other_states:
            warm_ms = timed[Stream(arm, other_states[0])].samples_ms
            timing |= {"warm_samples_ms": warm_ms, "warm_latency_ms": median(warm_ms)}
        model = case.model_fields()
        rates = rate_fields(
            timing["latency_ms"],
            case.problem.batch_size * case.problem.q_len,
            model["model_bytes"],
            model["model_flops"],
        )
        flags = sample_flags(samples.samples_ms, case.measure.target_interval, samples.calls_per_slice)
        roof = self._runner.roof_fields(case, timing["latency_ms"], rates)
        if roof.pop("is_warm_suspect"):
            flags.append(FLAG_WARM_SUSPECT)
        self._record(
            arm,
            {
                "outcome": Outcome.OK,
                **self._facts[arm].fields,
                **timing,
                **rates,
                **roof,
                "num_processes": 1,
                "cache_state": state,
                "calls_per_slice": samples.calls_per_slice,
                "flags": flags,
            },
        )

    def _record(self, arm: Arm, fields: dict[str, Any]) -> None:
        fields = {
            **self._case.model_fields(),
            "device_name": self._runner.device_facts(self._case)["name"],
            **fields,
        }
        self._on_record(self._runner._record(self._case, arm, fields))
        self._active.remove(arm)
        self.recorded.add(arm)

    def _ask(self, arm: Arm, op: str, **arguments: Any) -> dict[str, Any]:
        timeout_s = self._case.measure.timeout_s
        return self._worker(arm.environment).request(op, timeout_s, arm=_label(arm), **arguments)

    @contextmanager
    def _blaming(self, arm: Arm) -> Iterator[None]:
        """What goes wrong inside is this arm's: a row, or the loss of its worker."""
        try:
            yield
        except RequestFailed as failure:
            self.fail(arm, failure.outcome, str(failure), failure.errors)
            self._worker(arm.environment).request("drop", self._case.measure.timeout_s, arm=_label(arm))
        except WorkerFailed as failure:
            raise ArmLost(arm, failure) from failure

    def _worker(self, environment: str) -> WorkerProcess:
        return self._runner.pool.ready(self._runner.environments[environment])


class _ArmDropped(Exception):
    """An arm failed while it was timed; its row is written."""


def _label(arm: Arm) -> str:
    return arm.impl if arm.environment == CURRENT_ENVIRONMENT else f"{arm.environment}:{arm.impl}"
