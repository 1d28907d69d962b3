from __future__ import annotations

import json
from pathlib import Path

import pytest

from gqabench.harness.cli import main
from gqabench.results import Outcome
from gqabench.results.store.baselines import MAX_SAMPLES, thin
from gqabench.results.store.load import load_runs
from tests.results.made_up_runs import HEADER, made_up_rows, made_up_run


def test_thinning_by_hand() -> None:
    assert thin([1.0, 2.0]) == [1.0, 2.0]
    assert thin(list(map(float, range(25)))) == list(map(float, range(25)))
    kept = thin(list(map(float, range(49))))
    assert kept == list(map(float, range(0, 49, 2)))
    assert (len(thin([0.0] * 1000)), thin([*([0.0] * 999), 7.0])[-1]) == (MAX_SAMPLES, 7.0)


def test_a_baseline_is_small_says_where_it_comes_from_and_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    machine = HEADER.machine | {"system": {"hostname": "secret-host", "python": "3.11"}}
    rows = made_up_rows(
        "run", 50, num_samples=500, changes={7: {"outcome": Outcome.OOM, "reason": "too large"}}
    )
    run = made_up_run(tmp_path, "run", rows, machine=machine)
    assert main(["baseline", "update", str(run)]) == 0
    folder = tmp_path / "results/baselines/some-cpu-8-cores/made_up"
    counts, place = capsys.readouterr().out.splitlines()
    assert counts.startswith("50 records (49 ok, 1 oom), ")
    assert place == f"baseline: {folder.relative_to(tmp_path)}"
    description = json.loads((folder / "baseline.json").read_text())
    assert description["made_with"] == f"gqabench baseline update {run}"
    assert description["measured_with"] == ["gqabench sweep"]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 60 * 1024
    assert b"secret-host" not in (folder / "records.parquet").read_bytes()
    loaded = load_runs(folder)
    lengths = [len(row["samples_ms"]) for row in loaded.rows if row["outcome"] == Outcome.OK]
    assert lengths == [MAX_SAMPLES] * 49
    assert [row["latency_ms"] for row in loaded.rows] == [row["latency_ms"] for row in rows]
    assert main(["compare", str(folder), str(run)]) == 0
    assert main(["baseline", "list"]) == 0
    listed = capsys.readouterr().out.splitlines()[-1].split()
    assert [listed[place] for place in (0, 1, 2, 4, 5)] == [
        "some-cpu-8-cores", "made_up", "50", "2026-01-02", "a" * 12,
    ]  # fmt: skip


def test_what_is_no_baseline_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refusal(*runs: Path | str, options: tuple[str, ...] = ()) -> str:
        assert main(["baseline", "update", *map(str, runs), "--into", str(tmp_path / "b"), *options]) == 2
        return capsys.readouterr().err

    one = made_up_run(tmp_path, "one", made_up_rows("one", 2))
    other = made_up_run(tmp_path, "other", made_up_rows("other", 2), study="other")
    cut = made_up_run(tmp_path, "cut", made_up_rows("cut", 2), status="partial")
    machine = HEADER.machine | {"cpu": {"model": "Another CPU", "num_logical_cores": 4}}
    far = made_up_run(tmp_path, "far", made_up_rows("far", 2), machine=machine)
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(map(json.dumps, made_up_rows("lines", 2))) + "\n")
    assert "of several studies or none (made_up, other); name the baseline with --study NAME" in refusal(
        one, other
    )
    assert "incomplete: cut" in refusal(cut)
    lost = made_up_run(tmp_path, "lost", made_up_rows("lost", 2), num_planned_records=3)
    assert "holds 2 of 3 planned records" in refusal(lost)
    assert "of different machines: another-cpu-4-cores, some-cpu-8-cores" in refusal(one, far)
    assert "the machine is not recorded" in refusal(lines, options=("--study", "x"))
    assert "--study ../x: must be letters" in refusal(one, options=("--study", "../x"))
    assert "no such run" in refusal("nowhere")
    assert not (tmp_path / "b").exists()
