"""Measures one cell under pytest-benchmark: the case, inputs, checks and memory are those of a sweep.

It runs in pytest's own process, where pytest-benchmark keeps the time. Imports torch when it is called.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from gqabench.harness.cases.case import Case, InvalidCase
from gqabench.harness.cases.identity import cell_id
from gqabench.harness.machine.host import HostDescription
from gqabench.harness.measure.arm_facts import ArmFacts
from gqabench.harness.workers.environments import CURRENT_ENVIRONMENT
from gqabench.results import Outcome, Record, RunHeader
from gqabench.results.comparison.verdicts import problem_text
from gqabench.results.statistics.derive import rate_fields, timing_fields
from gqabench.results.statistics.samples import median
from gqabench.results.store.pytest_benchmark_file import extra_info

if TYPE_CHECKING:
    from gqabench.harness.worker.session import Session

DEFAULT_ROUNDS = 25
_ARM = "arm"
_RUN_ID = f"pytest-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


class CellBenchmark:
    """The fixture's value: one call measures one cell."""

    def __init__(self, benchmark: Any) -> None:
        self._benchmark = benchmark

    def __call__(self, impl: str, *, rounds: int = DEFAULT_ROUNDS, **keys: Any) -> Record:
        """Check and time `impl`, and measure its memory, on the case that the keys of a sweep describe.

        Skips the test where the implementation does not support the problem, with its reason; fails it where
        an output is wrong. A mistake in the keys raises `UsageError`.
        """
        from gqabench.harness.worker.contract_checks import BrokenPromise, IncorrectOutput
        from gqabench.harness.worker.session import Session
        from gqabench.harness.worker.subjects.subject import UnsupportedProblem

        case = plan_cell(impl, keys)
        if isinstance(case, InvalidCase):
            pytest.skip(case.reason)
        self._benchmark.group = problem_text(case.shape_fields())
        session = Session()
        try:
            record = self._measure(session, case, rounds)
        except UnsupportedProblem as reason:
            pytest.skip(f"{impl}: {reason}")
        except (IncorrectOutput, BrokenPromise) as wrong:
            _fail(f"{impl}: {wrong}")
        finally:
            session.close_case()
        self._benchmark.extra_info.update(extra_info(record))
        return record

    def _measure(self, session: Session, case: Case, rounds: int) -> Record:
        facts = ArmFacts()
        facts.add(session.open_case(**case.to_open()))
        cell = session.case
        facts.add(cell.prepare(_ARM, case.arms[0].impl))
        facts.add(cell.measure_memory(_ARM))
        with cell.calls(_ARM) as (before_each, call):
            self._benchmark.pedantic(call, setup=before_each, rounds=rounds, iterations=1)
        if self._benchmark.stats is None:  # --benchmark-disable: called once, not timed
            samples_ms = cell.measure(_ARM, 1, is_cold=True).samples_ms
        else:
            samples_ms = [seconds * 1e3 for seconds in self._benchmark.stats.stats.data]
        if case.problem.device != "cpu":  # the host's clock has the launches in it
            facts.add_fields({"eager_ms": median(samples_ms)})
            samples_ms = cell.measure(_ARM, rounds, is_cold=True).samples_ms
        facts.add(cell.verify(_ARM))
        return _record(case, facts.fields | _timed(case, samples_ms))


@cache
def host() -> HostDescription:
    """Describe this interpreter and its devices, as a worker does."""
    from gqabench.harness.worker.host import describe_host

    return describe_host()


def plan_cell(impl: str, keys: dict[str, Any]) -> Case | InvalidCase:
    """Plan the case of a sweep with these keys and this one implementation. Raises `UsageError`."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from gqabench import conf
    from gqabench.harness.cases.keys import register_keys
    from gqabench.harness.cases.plan import plan_case
    from gqabench.harness.sweep.hydra_errors import mistakes_explained

    register_keys()
    with initialize_config_module("gqabench.conf", version_base="1.3"):
        is_group = set(conf.presets.PRESET_GROUPS).__contains__
        ordered = sorted(keys.items(), key=lambda item: not is_group(item[0]))
        overrides = [f"{key}={'null' if value is None else value}" for key, value in ordered]
        with mistakes_explained():
            config = compose("sweep", overrides=overrides)
        OmegaConf.update(config, "impls", [impl])
        return plan_case(config, {CURRENT_ENVIRONMENT: host()})


def describe_session(num_benchmarks: int) -> dict[str, Any]:
    """Return the header of this process's benchmarks, as a run has one."""
    from gqabench.harness.machine.description import describe_machine
    from gqabench.harness.machine.nvml import open_nvml
    from gqabench.harness.machine.source import gqabench_version

    header = RunHeader(
        run_id=_RUN_ID,
        status="complete",
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command="pytest --benchmark-only",
        num_planned_cases=num_benchmarks,
        num_planned_records=num_benchmarks,
        seed=0,
        measure="pytest-benchmark",
        gqabench_version=gqabench_version(),
        machine=describe_machine(host(), open_nvml()),
    )
    return asdict(header)


def _timed(case: Case, samples_ms: list[float]) -> dict[str, Any]:
    fields = timing_fields(samples_ms)
    model = case.model_fields()
    num_new_tokens = case.problem.batch_size * case.problem.q_len
    rates = rate_fields(fields["latency_ms"], num_new_tokens, model["model_bytes"], model["model_flops"])
    return {
        **model,
        **fields,
        **rates,
        "cache_state": "cold",
        "num_processes": 1,
        "measure": "pytest-benchmark",
    }


def _record(case: Case, fields: dict[str, Any]) -> Record:
    arm = case.arms[0]
    device = host().device(case.problem.device)
    assert device is not None, "the case was planned for a device of this host"
    identity = {
        "run_id": _RUN_ID,
        "case_id": case.case_id,
        "cell_id": cell_id(case, arm, host()),
        "impl": arm.impl,
        "environment": arm.environment,
        "outcome": Outcome.OK,
        "device_name": device.name,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Record(**identity | case.shape_fields() | fields)


def _fail(message: str) -> NoReturn:
    pytest.fail(message, pytrace=False)
