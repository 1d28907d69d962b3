"""The command as a user runs it, from a folder that is not the project's."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from gqabench import results
from gqabench.harness.errors import UsageError
from gqabench.harness.sweep.run import close_run
from gqabench.harness.sweep.run_setup import require_same_environments
from gqabench.results import RunFolder, RunHeader
from tests.harness.forked_command import Started

PROJECT = Path(__file__).resolve().parents[3]
Gqabench = Callable[..., subprocess.CompletedProcess[str]]
AS_USERS_DO = ("measure=smoke", "model=gqa_8_2", "kv_len=32", "impls=[grouped_matmul,sdpa]")
QUICK = (*AS_USERS_DO, "measure.caches=[warm]")
"""Without the reading over of caches, which takes most of a small sweep's time where they are large."""


def latest(folder: Path) -> pd.DataFrame:
    return results.load(folder / "results" / "runs" / "latest")


@dataclass(frozen=True)
class Measured:
    """A sweep that has run, in a folder of its own."""

    folder: Path
    stdout: str

    def copy_to(self, folder: Path) -> None:
        """Make it the sweep of another folder, to be gone on with there."""
        shutil.copytree(self.folder, folder, symlinks=True, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def measured(gqabench_in: Gqabench, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """One quick sweep for all tests that look at what it says and leaves."""
    folder = tmp_path_factory.mktemp("measured")
    finished = gqabench_in(folder, "sweep", *AS_USERS_DO, "batch_size=3")
    assert finished.returncode == 0, finished.stderr
    return Measured(folder, finished.stdout)


def test_the_last_two_lines_say_where_the_run_and_its_report_are(measured: Measured) -> None:
    run, report = measured.stdout.splitlines()[-2:]
    assert run.startswith("run: ")
    assert report.startswith("report: ")
    assert (measured.folder / report.removeprefix("report: ")).is_file()
    folder = measured.folder / run.removeprefix("run: ")
    header = json.loads((folder / "run.json").read_text())
    assert (header["status"], header["num_planned_records"]) == ("complete", 2)
    assert (measured.folder / "results" / "runs" / "latest").resolve() == folder.resolve()
    left = {entry.name for entry in measured.folder.iterdir()}
    assert left == {"results"}, "nothing else is left behind"


def test_a_record_says_what_was_measured(measured: Measured) -> None:
    row = latest(measured.folder).set_index("impl").loc["grouped_matmul"]
    assert row["outcome"] == "ok"
    assert row["kv_cache_bytes_model"] == row["kv_cache_bytes"] == 2 * 3 * 2 * 32 * 64 * 4
    assert row["kv_cache_bytes_model_all_layers"] == 6 * row["kv_cache_bytes_model"]
    assert row["latency_ms"] == pytest.approx(pd.Series(row["samples_ms"]).median())
    assert row["latency_ci_low_ms"] <= row["latency_ms"] <= row["latency_ci_high_ms"]
    assert row["tokens_per_s"] == pytest.approx(3 / row["latency_ms"] * 1e3)
    assert 0 <= row["max_error"] <= row["error_budget"]
    assert row["peak_workspace_bytes"] > 0
    assert "aten::bmm" in row["kernels"] or "aten::matmul" in row["kernels"]
    assert pd.isna(row["energy_j_per_call"])
    assert pd.isna(row["roof_fraction"])


def test_expansion_shows_in_the_workspace_and_not_in_the_cache(gqabench: Gqabench, tmp_path: Path) -> None:
    assert gqabench("sweep", "measure=smoke", "num_q_heads=8", "num_kv_heads=2", "head_dim=64", "kv_len=512",
                    "impls=[repeat_kv,grouped_matmul]").returncode == 0  # fmt: skip
    rows = latest(tmp_path).set_index("impl")
    cache = rows.loc["repeat_kv", "kv_cache_bytes"]
    assert cache == rows.loc["grouped_matmul", "kv_cache_bytes"]
    assert rows.loc["repeat_kv", "peak_workspace_bytes"] > 4 * cache  # both tensors, at query heads
    assert rows.loc["grouped_matmul", "peak_workspace_bytes"] < cache


def test_a_repeat_gives_the_same_bytes(gqabench: Gqabench, tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        finished = gqabench(
            "sweep", "-m", "measure=smoke", "model=gqa_8_2", "workload=prefill,decode", "kv_len=96",
            "impls=[sdpa,repeat_kv,repeat_kv_sdpa,sdpa_math,grouped_matmul]", "measure.caches=[warm]",
        )  # fmt: skip
        assert finished.returncode == 0, finished.stderr
        columns = ["kv_cache_bytes_model", "kv_cache_bytes", "peak_workspace_bytes", "prepared_bytes"]
        seen.append(latest(tmp_path).set_index(["impl", "workload"]).sort_index()[columns])
    pd.testing.assert_frame_equal(*seen)
    assert (seen[0]["peak_workspace_bytes"] > 0).all()


def test_multirun_axes_and_a_point_that_is_no_problem(gqabench: Gqabench, tmp_path: Path) -> None:
    finished = gqabench("sweep", "-m", *QUICK, "num_kv_heads=8,3,1", "batch_size=1,2")
    assert finished.returncode == 0, finished.stderr
    rows = latest(tmp_path)
    assert len(rows) == 12
    invalid = rows[rows["num_kv_heads"] == 3]
    assert set(invalid["outcome"]) == {"unsupported"}
    assert all("must divide num_q_heads=8; valid: 1, 2, 4, 8" in reason for reason in invalid["reason"])
    assert set(rows[rows["num_kv_heads"] != 3]["outcome"]) == {"ok"}


def test_a_study_is_a_multirun_and_its_axes_can_be_narrowed(gqabench: Gqabench, tmp_path: Path) -> None:
    finished = gqabench(
        "sweep", "study=smoke", "kv_len=16", "num_kv_heads=2,1", "impls=[sdpa]", "measure.caches=[warm]"
    )
    assert finished.returncode == 0, finished.stderr
    assert sorted(zip(latest(tmp_path)["num_kv_heads"], latest(tmp_path)["kv_len"], strict=True)) == [
        (1, 16),
        (2, 16),
    ]


def test_a_config_folder_of_the_users_own(gqabench: Gqabench, tmp_path: Path) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "tiny.yaml").write_text(
        "# @package _global_\nmodel: tiny\nnum_q_heads: 6\nnum_kv_heads: 3\nhead_dim: 16\nnum_layers: 2\n"
    )
    finished = gqabench(
        "sweep", "--config-dir", "mine", "model=tiny", "measure=smoke", "kv_len=20", "impls=[sdpa]"
    )
    assert finished.returncode == 0, finished.stderr
    row = latest(tmp_path).iloc[0]
    assert (row["model"], row["num_q_heads"], row["num_kv_heads"]) == ("tiny", 6, 3)


def test_tensor_parallelism_measures_one_rank_and_results_go_where_they_are_asked_to(
    gqabench: Gqabench, tmp_path: Path
) -> None:
    finished = gqabench(
        "sweep", "model=llama2_70b", "tp=16", "kv_len=64", "measure=smoke", "impls=[sdpa]",
        "results_dir='my results/x=1'",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    row = results.load(tmp_path / "my results" / "x=1" / "latest").iloc[0]
    assert (row["num_q_heads"], row["num_kv_heads"], row["tp"]) == (4, 1, 16)
    assert [entry.name for entry in tmp_path.iterdir()] == ["my results"]


def test_every_workload_runs(gqabench: Gqabench, tmp_path: Path) -> None:
    finished = gqabench("sweep", "-m", *QUICK, "workload=prefill,extend,layer")
    assert finished.returncode == 0, finished.stderr
    rows = latest(tmp_path)
    assert list(rows["outcome"]) == ["ok"] * 6, list(rows["reason"])
    assert rows["workload"].value_counts().to_dict() == {"prefill": 2, "extend": 2, "layer": 2}


def test_a_finished_run_is_resumed_without_measuring_again(
    measured: Measured, gqabench_in: Gqabench, tmp_path: Path
) -> None:
    """In a fresh interpreter, with a hash seed of its own: cells are the same ones in every process."""
    measured.copy_to(tmp_path)
    before = latest(tmp_path)
    impls = "impls=[grouped_matmul,sdpa,repeat_kv]"
    finished = gqabench_in(
        tmp_path, "sweep", *AS_USERS_DO, "batch_size=3", impls, "resume=latest", PYTHONHASHSEED="7"
    )
    assert finished.returncode == 0, finished.stderr
    after = latest(tmp_path)
    assert list(after["impl"]) == ["grouped_matmul", "sdpa", "repeat_kv"] or len(after) == 3
    kept = after[after["impl"] != "repeat_kv"]
    assert list(kept["started_at"]) == list(before["started_at"])
    assert len(list((tmp_path / "results" / "runs").glob("2*"))) == 1
    assert list((tmp_path / "results" / "runs" / "latest" / "figures").glob("*.png")), "a sweep draws figures"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["impls=[nope]"], "impls=nope: unknown; valid: reference, repeat_kv"),
        (["model=nope"], "model=nope: unknown; valid: falcon_7b, gemma_2b"),
        (["study=nope"], "study=nope: unknown; valid: batch, "),
        (["nope=1"], "nope: unknown key; valid: model, tp, dtype"),
        (["num_kv_head=1"], "num_kv_head: unknown key (did you mean num_kv_heads?)"),
        (["measure.round=1"], "measure.round: unknown key"),
        (
            ["-m", "num_q_heads=30", "num_kv_heads=8,7"],
            "num_kv_heads=8: must divide num_q_heads=30; valid: 1, 2, 3, 5",
        ),
        (["-m", "kv_len=16,-1"], "kv_len=-1: must be a positive whole number"),
        (["kv_len=many"], "kv_len=many: must be a whole number"),
        (["-m", "kv_len=16,many"], "kv_len=many: must be a whole number"),
        (["head_dim=null"], "head_dim=null: must be a value, not null"),
        (["device=cuda:7"], "device=cuda:7: not on this machine; valid: auto, cpu"),
        (["kv_len=16,32"], "kv_len=16,32: several values need -m"),
        (["results_dir=/proc/nowhere"], "results_dir=/proc/nowhere: cannot be written"),
        (["resume=nowhere"], "resume=nowhere: not a run's folder"),
        (["impls=["], "impls=["),
        (["--config-dir", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    gqabench: Gqabench, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    """One of each way that a mistake takes; `test_plan.py` has all values that are never valid."""
    finished = gqabench("sweep", "measure=smoke", *arguments)
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1
    assert finished.stderr.startswith(f"gqabench sweep: {complaint}") or complaint in finished.stderr
    assert "Traceback" not in finished.stderr
    assert finished.stdout == ""
    assert list(tmp_path.iterdir()) == []


MANY_CASES = (
    "sweep", "study=kv_len", "model=gqa_8_2", "num_kv_heads=8,4,2,1", "impls=[grouped_matmul,sdpa]",
    "measure=smoke", "measure.target_interval=1e-9", "measure.seconds_per_arm=0.5", "measure.caches=[warm]",
)  # fmt: skip


def wait_for_records(folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not list(folder.glob("results/runs/2*/records/*.jsonl")) or len(latest(folder)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_sweep_keeps_what_it_has_and_says_that_it_is_partial(
    start_gqabench_in: Callable[..., Started], tmp_path: Path, number: signal.Signals
) -> None:
    sweep = start_gqabench_in(tmp_path, *MANY_CASES)
    wait_for_records(tmp_path)
    os.kill(sweep.pid, number)
    finished = sweep.finish(120)
    assert finished.returncode == 130, finished.stderr
    assert "Traceback" not in finished.stderr
    header = results.RunFolder(tmp_path / "results/runs/latest").header()
    assert header.status == "partial"
    assert 2 <= len(latest(tmp_path)) < header.num_planned_records
    assert f"of {header.num_planned_records} planned, interrupted" in finished.stdout
    page = Path(tmp_path, finished.stdout.splitlines()[-1].removeprefix("report: ")).read_text()
    assert "partial" in page.lower()


def test_a_killed_sweep_loses_the_case_in_flight_alone_and_its_worker_dies(tmp_path: Path) -> None:
    program = "import sys; from gqabench.harness.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", program, *MANY_CASES],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for_records(tmp_path)
    (worker,) = psutil.Process(process.pid).children()
    assert os.getsid(worker.pid) != os.getsid(process.pid), "a terminal's Ctrl-C is for the parent alone"
    process.kill()
    process.communicate()
    rows = latest(tmp_path)
    assert len(rows) >= 2
    assert set(rows["outcome"]) == {"ok"}
    psutil.wait_procs([worker], timeout=20)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "it outlived its parent"


def test_a_full_disk_is_one_line_and_keeps_what_was_written(gqabench: Gqabench, tmp_path: Path) -> None:
    finished = subprocess.run(
        ["bash", "-c", 'ulimit -f 6; exec "$@"', "bash", sys.executable, "-P", "-c",
         "import signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
         "from gqabench.harness.cli import main; sys.exit(main())",
         "sweep", "-m", *QUICK, "kv_len=8,16,24,32"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert finished.returncode == 2, finished.stderr
    assert "Traceback" not in finished.stderr
    assert "File too large" in finished.stderr.splitlines()[-1]
    with pytest.warns(UserWarning, match="unfinished record") if _ends_open(tmp_path) else _nothing():
        assert len(latest(tmp_path)) >= 1


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_takes_nothing_more_is_one_line_too(gqabench: Gqabench, tiny_disk: Path) -> None:
    finished = gqabench("sweep", "-m", *QUICK, "kv_len=8,16,24,32,40,48", f"results_dir={tiny_disk}/runs")
    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr
    (run,) = tiny_disk.glob("runs/2*")
    said = finished.stderr.splitlines()[-1]
    assert "No space left on device" in said
    assert said.endswith(f"the records so far are in {run}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the last record may be cut off
        assert len(results.load(run)) >= 1


def test_a_run_that_is_being_measured_into_is_not_resumed(
    measured: Measured, gqabench: Gqabench, tmp_path: Path
) -> None:
    measured.copy_to(tmp_path)
    run = RunFolder((tmp_path / "results/runs/latest").resolve())
    held = run.hold()
    if held is None:
        pytest.skip("this file system has no locks")
    refused = gqabench("sweep", *AS_USERS_DO, "batch_size=3", f"resume={run.path}")
    os.close(held)
    assert refused.returncode == 2
    assert "another gqabench sweep is writing to it" in refused.stderr
    assert gqabench("sweep", *AS_USERS_DO, "batch_size=3", f"resume={run.path}").returncode == 0


def test_an_environment_that_has_become_another_is_not_resumed_under_its_name() -> None:
    before = {"other": {"libraries": {"torch": "2.9.1", "numpy": "2.3"}}, "gone": {"libraries": {}}}
    same = {"other": {"libraries": {"torch": "2.9.1", "numpy": "2.3"}}, "new": {"libraries": {"torch": "1"}}}
    require_same_environments("RUN", before, same)
    now = {"other": {"libraries": {"torch": "2.13.0", "numpy": "2.4"}}}
    with pytest.raises(
        UsageError, match=r"resume=RUN: environment other had torch 2\.9\.1 in this run, and has 2\.13"
    ):
        require_same_environments("RUN", before, now)


def test_a_sweep_that_could_measure_nothing_says_so(gqabench: Gqabench) -> None:
    finished = gqabench("sweep", *QUICK, "kv_len=8", "impls=[sdpa_cudnn]")
    assert finished.returncode == 0  # a row that says why is an answer
    assert "nothing could be measured; the report gives the reasons" in finished.stderr


def _ends_open(folder: Path) -> bool:
    return not next(folder.glob("results/runs/2*/records/*.jsonl")).read_bytes().endswith(b"\n")


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def test_a_disk_that_refuses_the_parquet_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    header = RunHeader(
        run_id="run", status="running", created_at="", command="", num_planned_cases=0, num_planned_records=0,
        seed=0, measure="smoke", gqabench_version="0",
    )  # fmt: skip
    monkeypatch.setattr("gqabench.results.store.parquet.write_parquet", refuse)
    with pytest.raises(UsageError, match=r"records.parquet cannot be written: No space left.*records are in"):
        close_run(RunFolder.create(tmp_path / "run", header), "complete")
