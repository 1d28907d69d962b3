"""`report=false`: a sweep that ends sooner, and whose report is written when there is time."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import gqabench
from gqabench import results

Finished = subprocess.CompletedProcess[str]
QUICK = (
    "sweep", "measure=smoke", "measure.min_rounds=2", "measure.caches=[warm]", "model=gqa_8_2", "kv_len=16",
    "impls=[sdpa]",
)  # fmt: skip
WRITTEN_BY_A_REPORT = {"report.html", "report.md", "figures"}


@pytest.fixture(scope="module")
def unreported(
    gqabench_in: Callable[..., Finished], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Finished]:
    """One sweep without a report, in a folder whose name a shell would split."""
    folder = tmp_path_factory.mktemp("un reported")
    return folder, gqabench_in(folder, *QUICK, "report=false", "results_dir='of mine'")


def contents(run: Path) -> set[str]:
    return {path.name for path in run.iterdir()}


def test_it_has_its_records_and_says_how_the_report_is_written(unreported: tuple[Path, Finished]) -> None:
    folder, finished = unreported
    assert finished.returncode == 0, finished.stderr
    run, report = finished.stdout.splitlines()[-2:]
    path = run.removeprefix("run: ")
    assert report == f"report: not written (report=false); gqabench report '{path}' writes it"
    left = contents(folder / path)
    assert {"run.json", "records", "records.parquet"} <= left
    assert not left & WRITTEN_BY_A_REPORT


def test_what_it_says_writes_the_report(
    unreported: tuple[Path, Finished], gqabench_in: Callable[..., Finished], tmp_path: Path
) -> None:
    folder, finished = unreported
    shutil.copytree(folder, tmp_path, symlinks=True, dirs_exist_ok=True)
    command = finished.stdout.splitlines()[-1].partition("; gqabench ")[2].removesuffix(" writes it")
    reported = gqabench_in(tmp_path, *shlex.split(command))
    assert reported.returncode == 0, reported.stderr
    assert (tmp_path / reported.stdout.removeprefix("report: ").strip()).name == "report.html"


def test_a_resumed_run_is_reported_unless_told_again(
    unreported: tuple[Path, Finished], gqabench_in: Callable[..., Finished], tmp_path: Path
) -> None:
    folder, _ = unreported
    shutil.copytree(folder, tmp_path, symlinks=True, dirs_exist_ok=True)
    resumed = gqabench_in(tmp_path, *QUICK, "results_dir='of mine'", "resume=latest")
    assert resumed.returncode == 0, resumed.stderr
    run, report = (line.partition(": ")[2] for line in resumed.stdout.splitlines()[-2:])
    assert Path(report) == Path(run, "report.html")
    assert (tmp_path / report).is_file()
    assert len(results.load(tmp_path / run)) == 1


def test_it_is_true_or_false(gqabench: Callable[..., Finished]) -> None:
    finished = gqabench(*QUICK, "report=later")
    assert finished.returncode == 2
    assert finished.stderr.startswith("gqabench sweep: report=later: must be ")


def test_from_python_a_report_that_would_not_be_written_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(gqabench.UsageError, match=r"report=true: measure writes no report"):
        gqabench.measure(kv_len=16, results_dir=tmp_path, report=True)
