from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gqabench.results import Outcome, Record, RunHeader


@pytest.fixture
def make_record() -> Callable[..., Record]:
    def make(**changes: Any) -> Record:
        values: dict[str, Any] = {
            "run_id": "run-a",
            "case_id": "case-1",
            "cell_id": "cell-1",
            "impl": "sdpa",
            "environment": "current",
            "outcome": Outcome.OK,
            "workload": "decode",
            "phase": "decode",
            "batch_size": 1,
            "q_len": 1,
            "kv_len": 128,
            "num_q_heads": 8,
            "num_kv_heads": 2,
            "group_size": 4,
            "head_dim": 64,
            "dtype": "float32",
            "device": "cpu",
        }
        is_ok = changes.get("outcome", Outcome.OK) == Outcome.OK
        return Record(**values | ({"latency_ms": 1.25} if is_ok else {"reason": "made up"}) | changes)

    return make


@pytest.fixture
def header() -> RunHeader:
    return RunHeader(
        run_id="run-a",
        status="running",
        created_at="2026-01-02T03:04:05+00:00",
        command="gqabench sweep",
        num_planned_cases=1,
        num_planned_records=2,
        seed=0,
        measure="smoke",
        gqabench_version="0.1.0",
        machine={"devices": [{"device": "cpu", "name": "some CPU"}]},
    )
