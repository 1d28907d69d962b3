"""Stored runs made up: many cells, latencies with a scatter that the caller chooses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gqabench.results import Outcome, RunFolder, RunHeader
from gqabench.results.record import LATENCY_FIELDS, Record
from gqabench.results.store.parquet import write_parquet
from gqabench.results.store.run_folder import PARQUET_NAME

HEADER = RunHeader(
    run_id="", status="complete", created_at="2026-01-02T03:04:05+00:00", command="gqabench sweep",
    study="made_up", num_planned_cases=1, num_planned_records=1, seed=0, measure="standard",
    gqabench_version="0.1.0",
    machine={
        "cpu": {"model": "Some CPU", "num_logical_cores": 8},
        "devices": [{"device": "cpu", "name": "Some CPU"}],
        "libraries": {"torch": "2.13.0"},
        "code": {"git_revision": "a" * 40, "git_dirty": False},
    },
)  # fmt: skip


def made_up_rows(
    run_id: str,
    num_cells: int,
    *,
    spread: float = 0.01,
    seed: int = 0,
    changes: Mapping[int, Mapping[str, Any]] | None = None,
    num_samples: int = 20,
) -> list[dict[str, Any]]:
    """Records of a run. `changes` gives fields by cell number; its `slower` is a factor of the latency."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(num_cells):
        change = dict((changes or {}).get(number, {}))
        latency_ms = math.exp(generator.normal(0, spread)) * change.pop("slower", 1.0)
        samples = np.exp(generator.normal(math.log(latency_ms), 0.005, num_samples))
        record = Record(
            run_id=run_id, case_id=f"case{number // 2}", cell_id=f"cell{number}", outcome=Outcome.OK,
            impl=("sdpa", "repeat_kv")[number % 2], environment="current", workload="decode", phase="decode",
            batch_size=1, q_len=1, kv_len=64 + number // 2, num_q_heads=8, num_kv_heads=2, group_size=4,
            head_dim=64, dtype="float32", device="cpu", device_name="Some CPU", latency_ms=latency_ms,
            latency_ci_low_ms=latency_ms * 0.995, latency_ci_high_ms=latency_ms * 1.005,
            samples_ms=samples.tolist(), kv_cache_bytes=1 << 20, peak_workspace_bytes=4096, num_threads=8,
            cache_state="cold", roof_fraction=0.5 / latency_ms, started_at="2026-01-02T03:04:05+00:00",
        )  # fmt: skip
        if change.get("outcome", Outcome.OK) != Outcome.OK:
            change = {"reason": "made up", **dict.fromkeys(LATENCY_FIELDS)} | change
        rows.append(replace(record, **change).to_dict())
    return rows


def made_up_run(folder: Path, run_id: str, rows: list[dict[str, Any]], **header: Any) -> Path:
    """A run's folder as a sweep leaves it."""
    run = RunFolder.create(folder / run_id, replace(HEADER, run_id=run_id, **header))
    write_parquet(run.path / PARQUET_NAME, rows, [run.header()])
    return run.path
