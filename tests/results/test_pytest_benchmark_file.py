from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from gqabench import results
from gqabench.harness.cli import main
from gqabench.results.store.load import load_runs
from tests.results.made_up_runs import made_up_rows, made_up_run


def test_records_survive_both_ways(tmp_path: Path) -> None:
    rows = made_up_rows("run", 4, changes={3: {"outcome": results.Outcome.OOM, "samples_ms": None}})
    run = made_up_run(tmp_path, "run", rows)
    file = tmp_path / "cells.json"
    assert results.to_pytest_benchmark(run, file) == 3
    pd.testing.assert_frame_equal(results.from_pytest_benchmark(file), results.load(run).iloc[:3])
    assert load_runs(file).headers == load_runs(run).headers
    assert main(["compare", str(run), str(file), "--policy", "memory"]) == 0


def test_seconds_and_statistics_are_the_plugins(tmp_path: Path) -> None:
    rows = made_up_rows("run", 1, changes={0: {"samples_ms": [1.0, 2.0, 3.0, 4.0]}})
    file = tmp_path / "cells.json"
    results.to_pytest_benchmark(made_up_run(tmp_path, "run", rows), file)
    (benchmark,) = json.loads(file.read_text())["benchmarks"]
    stats = benchmark["stats"]
    assert stats["data"] == [0.001, 0.002, 0.003, 0.004]
    assert (stats["min"], stats["max"], stats["rounds"]) == (0.001, 0.004, 4)
    assert stats["median"] == pytest.approx(0.0025)
    assert benchmark["extra_info"]["peak_workspace_bytes"] == 4096
    assert benchmark["extra_info"]["kernel_ms"] == rows[0]["latency_ms"]


def test_the_plugins_own_command_reads_it(tmp_path: Path) -> None:
    for seed, name in enumerate(("old", "new")):
        run = made_up_run(tmp_path, name, made_up_rows(name, 3, seed=seed))
        results.to_pytest_benchmark(run, tmp_path / f"{name}.json")
    program = "from pytest_benchmark.cli import main; main()"
    command = [sys.executable, "-c", program, "compare", "old.json", "new.json", "--columns=median"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert finished.stdout.count("test_cell[sdpa-case0]") == 2
    assert "decode, batch 1, kv_len 64" in finished.stdout


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "not a file of pytest-benchmark"),
        ('{"benchmarks": [{"extra_info": {}}]}', "no benchmark of it was measured with gqa_benchmark"),
        ('{"benchmarks": [{"extra_info": {"gqabench_record": {}}}]}', "not a record of gqabench"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=complaint):
        results.from_pytest_benchmark(file)
    with pytest.raises(results.UnreadableRun, match=r"other\.json"):
        results.load(file)


def test_a_run_without_a_latency_is_refused(tmp_path: Path) -> None:
    run = made_up_run(tmp_path, "run", made_up_rows("run", 1, changes={0: {"samples_ms": None}}))
    with pytest.raises(ValueError, match="no latency was measured"):
        results.to_pytest_benchmark(run, tmp_path / "x.json")
