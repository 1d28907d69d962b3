"""Our records as a file of pytest-benchmark, so that its own tools read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gqabench.results.comparison.verdicts import problem_text
from gqabench.results.record import Outcome, Record
from gqabench.results.store.load import load_runs
from gqabench.results.store.machine_identity import machine_name
from gqabench.results.store.pytest_benchmark_file import HEADER_KEY, extra_info
from gqabench.results.store.run_folder import RunHeader

FORMAT_VERSION = "5.0.0"
"""Of pytest-benchmark, whose file format has been the same since its version 3."""


def to_pytest_benchmark(run: str | Path, path: str | Path) -> int:
    """Write the `ok` records of a run as a file that `pytest-benchmark compare` reads; return how many.

    Needs pytest-benchmark, whose own statistics are used. Raises `UnreadableRun`, or `ValueError` for runs
    without any latency.
    """
    loaded = load_runs(run)
    rows = [row for row in loaded.rows if row["outcome"] == Outcome.OK and row["samples_ms"]]
    if not rows:
        raise ValueError(f"{run}: no latency was measured")
    if len(machines := {machine_name(header) or "unknown" for header in loaded.headers}) > 1:
        raise ValueError(f"{run}: of different machines: {', '.join(sorted(machines))}; name runs of one")
    header = loaded.headers[0] if loaded.headers else None
    content = {
        "machine_info": _machine_info(header),
        "commit_info": _commit_info(header),
        "benchmarks": [_benchmark(row) for row in rows],
        "datetime": "" if header is None else header.created_at,
        "version": FORMAT_VERSION,
    }
    if header is not None:
        content[HEADER_KEY] = asdict(header)
    Path(path).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return len(rows)


def _benchmark(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as a benchmark, named as `tests/benchmarks` does: by implementation and problem."""
    from pytest_benchmark.stats import Stats

    stats = Stats()
    for milliseconds in row["samples_ms"]:
        stats.update(milliseconds / 1e3)
    name = f"test_cell[{row['impl']}-{row['case_id']}]"
    return {
        "group": problem_text(row),
        "name": name,
        "fullname": f"gqabench::{name}",
        "params": {"impl": row["impl"], "case_id": row["case_id"]},
        "param": f"{row['impl']}-{row['case_id']}",
        "extra_info": extra_info(Record.from_dict(dict(row))),
        "options": {"timer": row["timing_method"], "min_rounds": 1, "warmup": False},
        "stats": {**stats.as_dict(), "data": stats.data, "iterations": 1},
    }


def _machine_info(header: RunHeader | None) -> dict[str, Any]:
    """Return the keys that the plugin compares, so that it warns of another machine."""
    machine = {} if header is None else header.machine
    system, cpu = machine.get("system", {}), machine.get("cpu", {})
    return {
        "node": system.get("hostname", ""),
        "machine": system.get("architecture", ""),
        "system": str(system.get("kernel", "")).partition(" ")[0],
        "release": str(system.get("kernel", "")).partition(" ")[2],
        "python_version": system.get("python", ""),
        "python_implementation": system.get("python_implementation", ""),
        "cpu": {"brand_raw": cpu.get("model", ""), "count": cpu.get("num_logical_cores")},
    }


def _commit_info(header: RunHeader | None) -> dict[str, Any]:
    code = {} if header is None else header.machine.get("code", {})
    return {
        "id": code.get("git_revision", "unversioned"),
        "dirty": bool(code.get("git_dirty", False)),
        "project": "gqabench",
        "time": None,
        "author_time": None,
        "branch": "(unknown)",
    }
