"""`gqabench samples` as a user sees it: where its files go, what it lists, and each mistake in one line."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from gqabench.harness.cli import main
from gqabench.results import Outcome
from tests.results.made_up_runs import made_up_rows, made_up_run

LABEL = "sdpa, decode, batch 1, kv_len 64, heads 8/2 x 64, float32, cpu"
FAILED = {"outcome": Outcome.CRASH, "reason": "the worker died: signal 11"}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs of six cells in `runs/`; in the second, one implementation of a problem crashed."""
    monkeypatch.chdir(tmp_path)
    made_up_run(tmp_path / "runs", "a", made_up_rows("a", 6))
    made_up_run(tmp_path / "runs", "b", made_up_rows("b", 6, seed=1, changes={4: FAILED}))
    return tmp_path / "runs"


def csv_of(capsys: pytest.CaptureFixture[str]) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(capsys.readouterr().out))


def test_without_a_cell_the_cells_are_listed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["samples", "runs/b"]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.split() == ["cell_id", "case_id", "cell", "runs", "samples"]
    assert len(lines) == 6
    assert lines[0].split() == ["cell0", "case0", *LABEL.split(), "1", "20"]
    assert lines[4].endswith(" 1    crash")
    assert main(["samples", "runs/*"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-2:] == ["2", "40"]


@pytest.mark.parametrize(
    ("words", "runs_and_cells"),
    [
        (["runs/a", "sdpa", "kv_len=64"], {("a", "cell0")}),
        (["runs/*", LABEL], {("a", "cell0"), ("b", "cell0")}),
        (["runs/a", "runs/b", "cell3"], {("a", "cell3"), ("b", "cell3")}),
        (["runs/a/records.parquet", "runs/*", "cell3"], {("a", "cell3"), ("b", "cell3")}),  # once each
        (["runs/a", "case1", "repeat_kv", "sdpa"], {("a", "cell2"), ("a", "cell3")}),
    ],
)
def test_csv_goes_to_standard_output(
    runs: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    runs_and_cells: set[tuple[str, str]],
) -> None:
    assert main(["samples", *words]) == 0
    frame = csv_of(capsys)
    assert set(zip(frame["run_id"], frame["cell_id"], strict=True)) == runs_and_cells
    assert len(frame) == 20 * len(runs_and_cells)


def test_a_run_is_named_as_it_stands_in_its_folder(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    assert main(["samples", "a", "b", "cell0"]) == 0
    assert set(csv_of(capsys)["run_id"]) == {"a", "b"}


def test_files_are_written_where_they_are_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--csv", "out/cell.csv", "--figure", "out/cell.svg"]
    assert main(["samples", "runs/a", *options, "sdpa", "kv_len=64"]) == 0
    assert capsys.readouterr().out.splitlines() == ["csv: out/cell.csv", "figure: out/cell.svg"]
    assert len(pd.read_csv(runs.parent / "out/cell.csv")) == 20
    assert b"<svg" in (runs.parent / "out/cell.svg").read_bytes()


def test_a_file_without_a_cell_has_all_of_them(runs: Path) -> None:
    assert main(["samples", "runs/a", "--csv", "all.csv"]) == 0
    assert pd.read_csv(runs.parent / "all.csv")["cell_id"].nunique() == 6


def test_a_failed_cell_beside_others_is_said_and_left_out(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["samples", "runs/*", "cell4"]) == 0
    printed = capsys.readouterr()
    assert set(pd.read_csv(io.StringIO(printed.out))["run_id"]) == {"a"}
    assert "kv_len 66, heads 8/2 x 64, float32, cpu: has no samples: outcome crash: the worker" in printed.err


def test_a_cell_that_was_measured_again_is_the_later_one(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = made_up_rows("c", 1, changes={0: FAILED}) + made_up_rows("c", 1)
    made_up_run(runs, "c", rows)
    assert main(["samples", "runs/c", "cell0"]) == 0
    printed = capsys.readouterr()
    assert (len(printed.out.splitlines()), printed.err) == (21, "")


def test_a_baseline_says_that_it_keeps_few_samples(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up_run(runs, "d", made_up_rows("d", 2, num_samples=25))  # their median is not the latency
    assert main(["samples", "runs/d", "cell0"]) == 0
    assert "1 series of a baseline, which keeps few of the samples" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere"], "nowhere: no such run"),
        (["runs/a", "runs/nowhere", "sdpa"], "runs/nowhere: no such run"),
        (["runs/a", "spda"], "spda: neither an implementation nor an id of these records; nearest: sdpa"),
        (["runs/a", "kernels/k.py:Good"], "kernels/k.py:Good: neither an implementation nor an id"),
        (["runs/a", "batch=1"], "batch=1: unknown key; nearest: batch_size"),
        (["runs/a", "kv_len=99"], "kv_len=99: no record has it; nearest: 66, 65, 64"),
        (["runs/a", "cell0", "repeat_kv"], "cell0 repeat_kv: no cell fits all of this; nearest: "),
        (["runs/b", "cell4"], f"{LABEL.replace('64,', '66,', 1)}: has no samples: outcome crash: the worker"),
        (["runs/a", "cell0", "--figure", "x.gif"], "--figure x.gif: must end with .png or .svg"),
        (["runs/a", "cell0", "--csv", "/proc/nowhere/x"], "--csv /proc/nowhere/x: cannot be written"),
        (["runs/e", "--figure", "x.png"], "--figure x.png: 20 cells or series; a figure shows 6 at most; add "
         "impl=sdpa, or kv_len=64"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    runs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    made_up_run(runs, "e", made_up_rows("e", 20))
    assert main(["samples", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(f"gqabench samples: {complaint}")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("gqabench samples ", []),  # a run: the shell offers files
        ("gqabench samples runs/a", []),
        ("gqabench samples nowhere ", []),
        (
            "gqabench samples runs/a s",
            ["sdpa", "repeat_kv", "impl=sdpa", "impl=repeat_kv", "kv_len=64", "kv_len=65", "kv_len=66"],
        ),
        ("gqabench list ", ["impls", "shapes", "studies", "runs"]),
    ],
)
def test_the_shell_completes_cells_of_the_run(
    runs: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    expected: list[str],
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    assert main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.split() == expected


def test_samples_load_no_torch(runs: Path) -> None:
    code = (
        "import sys; from gqabench.harness.cli import main;"
        "main(['samples', 'runs/a', 'cell0', '--csv', 'x.csv']); print('torch' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines()[-1] == "False"
