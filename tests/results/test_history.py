from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gqabench.harness.cli import main
from gqabench.results.comparison.verdicts import CellKey
from gqabench.results.environment_history import common_steps
from gqabench.results.history import change_points
from tests.results.made_up_runs import HEADER, made_up_rows, made_up_run


def test_a_step_is_found_where_it_is_and_an_outlier_is_none() -> None:
    generator = np.random.default_rng(3)
    flat = np.exp(generator.normal(0, 0.01, 20))
    assert change_points(list(flat)) == []
    disturbed = flat.copy()
    disturbed[9] *= 1.5
    assert change_points(list(disturbed)) == []
    stepped = flat.copy()
    stepped[12:] *= 1.1
    assert change_points(list(stepped)) == [12]
    assert change_points(list(stepped[10:15])) == []  # too few to tell


def test_values_without_scatter_change_where_they_differ() -> None:
    assert change_points([1.0] * 4 + [2.0] * 4) == [4]
    assert change_points([0.0] * 4 + [2.0] * 4) == []  # no logarithm of nothing


def make_history(folder: Path, num_runs: int, changed_from: int) -> str:
    for number in range(num_runs):
        changes: dict[int, dict[str, Any]] = {}
        if number >= changed_from:
            changes = {5: {"slower": 1.2}, 2: {"kv_cache_bytes": (1 << 20) + 1}}
        name = f"run-{number:02}"
        code = {"git_revision": f"{number:02}" * 20, "git_dirty": False}
        made_up_run(
            folder,
            name,
            made_up_rows(name, 6, seed=number, changes=changes),
            machine=HEADER.machine | {"code": code},
            created_at=f"2026-01-{number + 1:02}T00:00:00+00:00",
        )
    return str(folder / "run-*")


def test_the_revision_that_changed_a_cell_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = make_history(tmp_path / "runs", 14, changed_from=8)
    assert main(["history", runs]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "repeat_kv, decode, batch 1, kv_len 66" in lines[0]
    assert lines[0].endswith("from run run-08: 070707070707 to 080808080808")
    assert lines[1] == "1 of 6 cells changed over 14 runs"
    assert (tmp_path / "history" / "latency_ms-1.png").read_bytes().startswith(b"\x89PNG")
    assert main(["history", runs, "--metric", "kv_cache_bytes"]) == 0
    assert "kv_cache_bytes 1,048,576 to 1,048,577, from run run-08" in capsys.readouterr().out


def test_what_begins_at_nothing_is_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, workspace in enumerate((0, 0, 4096)):
        name = f"run-{number}"
        rows = made_up_rows(name, 1, changes={0: {"peak_workspace_bytes": workspace}})
        made_up_run(tmp_path, name, rows, created_at=f"2026-01-02T0{number}:00:00+00:00")
    assert main(["history", "run-*", "--metric", "peak_workspace_bytes"]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("     new  sdpa, decode")
    assert "peak_workspace_bytes 0 to 4,096, from run run-2" in line


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = HEADER.machine | {"cpu": {"model": "Another CPU", "num_logical_cores": 4}}
    one = made_up_run(tmp_path, "one", made_up_rows("one", 2))
    far = made_up_run(tmp_path, "far", made_up_rows("far", 2), machine=machine)
    for runs, complaint in (
        ([one], "no cell has values from two or more runs"),
        ([one, far], "of different machines: another-cpu-4-cores, some-cpu-8-cores"),
        (["nowhere"], "no such run"),
    ):
        assert main(["history", *map(str, runs)]) == 2
        assert complaint in capsys.readouterr().err


NEWER_TORCH = {"libraries": {"torch": "2.14.0"}}


def history_of(folder: Path, slower: Mapping[int, float], machine: Mapping[str, Any]) -> str:
    """Fourteen runs of 24 cells; from the ninth on some are slower, on another machine's description."""
    for number in range(14):
        is_after = number >= 8
        changes = {cell: {"slower": factor} for cell, factor in slower.items()} if is_after else {}
        name = f"run-{number:02}"
        made_up_run(
            folder,
            name,
            made_up_rows(name, 24, seed=number, changes=changes),
            machine=HEADER.machine | (dict(machine) if is_after else {}),
            created_at=f"2026-01-{number + 1:02}T00:00:00+00:00",
        )
    return str(folder / "run-*")


def lines_of(runs: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["history", runs]) == 0
    return capsys.readouterr().out.splitlines()


ALL_SLOWER = dict.fromkeys(range(24), 1.1)


def test_a_moved_environment_is_one_line_and_no_change_of_any_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = lines_of(history_of(tmp_path / "runs", ALL_SLOWER, NEWER_TORCH), capsys)
    assert len(lines) == 3
    assert lines[0].startswith(
        "the environment moved from run run-08 on: torch 2.13.0, then 2.14.0; latency_ms of all 24 cells by +"
    )
    assert lines[1] == "0 of 24 cells changed by themselves over 14 runs"


def test_a_kernel_that_moved_at_the_same_run_is_named_by_its_own_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = {"code": {"git_revision": "b" * 40, "git_dirty": False}}
    lines = lines_of(history_of(tmp_path / "runs", ALL_SLOWER | {7: 1.32}, code), capsys)
    assert lines[0].startswith("the environment moved, or the code that all arms share, from run run-08 on: ")
    assert "no recorded fact of the environment changed" in lines[0]
    assert "git revision aaaaaaaaaaaa, then bbbbbbbbbbbb" in lines[0]
    assert lines[0].endswith("1 cell changed by itself")
    assert "repeat_kv, decode, batch 1, kv_len 67" in lines[1]
    own, shared = float(lines[1].split("%")[0]), float(lines[1].split("beside ")[1].split("%")[0])
    assert own == pytest.approx(20, abs=2)
    assert shared == pytest.approx(10, abs=1.5)
    assert lines[2] == "1 of 24 cells changed by themselves over 14 runs"


def test_facts_that_changed_with_one_cell_are_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = lines_of(history_of(tmp_path / "runs", {7: 1.2, 9: 1.3}, NEWER_TORCH), capsys)
    assert lines[0] == (
        "the environment moved from run run-08 on: torch 2.13.0, then 2.14.0; 2 cells changed by themselves"
    )
    assert ["kv_len 68" in lines[1], "kv_len 67" in lines[2]] == [True, True]
    assert lines[3] == "2 of 24 cells changed over 14 runs"


def test_one_implementation_that_moved_is_no_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = lines_of(history_of(tmp_path / "runs", dict.fromkeys(range(1, 24, 2), 1.15), {}), capsys)
    assert not any("environment" in line for line in lines)
    assert lines[-2] == "12 of 24 cells changed over 14 runs"


@pytest.mark.parametrize("run_spread", [0.0, 0.02])
def test_histories_without_a_step_seldom_have_a_common_one(run_spread: float) -> None:
    generator, num_claimed = np.random.default_rng(5), 0
    for _ in range(40):
        of_runs = generator.normal(0, run_spread, 16)
        values = {
            CellKey(f"case{cell // 4}", f"arm{cell % 4}"): dict(
                enumerate(np.exp(of_runs + generator.normal(0, 0.01, 16)))
            )
            for cell in range(20)
        }
        num_claimed += bool(common_steps(values, change_points, 0.02))
    assert num_claimed <= 2
