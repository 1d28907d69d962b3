from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from gqabench import results
from gqabench.harness.cases.case import Case
from gqabench.harness.pytest_plugin.cell import plan_cell

PROJECT = Path(__file__).resolve().parents[3]

CELLS = """
import pytest

@pytest.mark.parametrize("impl", ["sdpa", "folded_sdpa", "wrong.py:Wrong"])
def test_cell(gqa_benchmark, impl):
    record = gqa_benchmark(impl, rounds=3, model="gqa_8_2", workload="prefill", kv_len=32, num_kv_heads=1)
    assert len(record.samples_ms) == 3

def test_mistake(gqa_benchmark):
    gqa_benchmark("sdpa", model="gqa_8_2", kv_length=3)
"""
WRONG = """
from gqabench.attention_impls import PreparedAttention, get_impl

class Wrong:
    name = "wrong"
    def unsupported_reasons(self, problem):
        return []
    def prepare(self, problem, inputs):
        prepared = get_impl("sdpa").prepare(problem, inputs)
        return PreparedAttention(lambda: prepared() + 1, kv_cache_bytes=prepared.kv_cache_bytes)
"""


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "gqabench.harness.pytest_plugin",
        "-p",
        "no:xdist",
        *arguments,
    ]
    variables = {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    outer = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}  # not xdist's
    return subprocess.run(
        command, cwd=folder, env=outer | variables, capture_output=True, text=True, check=False
    )


def test_another_projects_tests_measure_cells(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(CELLS)
    (tmp_path / "wrong.py").write_text(WRONG)
    file = tmp_path / "cells.json"
    finished = run_pytest(tmp_path, "-p", "pytest_benchmark.plugin", "-rs", f"--benchmark-json={file}")
    assert "1 passed, 1 skipped" in finished.stdout, finished.stdout + finished.stderr
    assert "2 failed" in finished.stdout
    assert "folded_sdpa: q_len=32: the group takes the place of the query length" in finished.stdout
    assert "wrong.py:Wrong: " in finished.stdout
    assert "UsageError" in finished.stdout and "kv_length" in finished.stdout
    (row,) = results.from_pytest_benchmark(file).to_dict("records")
    case = plan_cell("sdpa", {"model": "gqa_8_2", "workload": "prefill", "kv_len": 32, "num_kv_heads": 1})
    assert isinstance(case, Case)
    assert (row["impl"], row["outcome"], row["case_id"]) == ("sdpa", "ok", case.case_id)
    assert row["kv_cache_bytes"] == 2 * 32 * 64 * 4
    assert row["peak_workspace_bytes"] > 0
    assert row["num_threads"] == 1
    assert results.load_runs(file).headers[0].machine["libraries"]["torch"]


def test_without_the_fixture_nothing_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\n"
        "def test_nothing():\n"
        "    heavy = ('torch', 'numpy', 'pandas', 'hydra', 'scipy', 'results', 'attention_impls')\n"
        "    assert [name for name in heavy if name in sys.modules] == []\n"
    )
    finished = run_pytest(tmp_path, "-q")
    assert "1 passed" in finished.stdout, finished.stdout + finished.stderr
