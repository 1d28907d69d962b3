from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gqabench.harness.cli import main
from tests.results.made_up_runs import HEADER, made_up_rows, made_up_run


@pytest.fixture
def two_runs(tmp_path: Path) -> tuple[str, str]:
    base = made_up_run(tmp_path, "base", made_up_rows("base", 6))
    changes = {0: {"kv_cache_bytes": (1 << 20) + 1}}
    return str(base), str(made_up_run(tmp_path, "new", made_up_rows("new", 6, changes=changes)))


@pytest.fixture(autouse=True)
def outside_github(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)


def test_a_byte_more_is_found_and_written_everywhere(
    two_runs: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    options = ["json", "markdown", "junit", "benchmark-action"]
    files = [argument for name in options for argument in (f"--{name}", str(tmp_path / f"out.{name}"))]
    files += ["--figure", str(tmp_path / "out.png")]
    assert main(["compare", *two_runs, *files, "--annotations"]) == 1
    printed = capsys.readouterr().out
    assert "1,048,577 B" in printed
    assert "::error title=GQABench: regression::sdpa, decode, batch 1, kv_len 64" in printed
    assert json.loads((tmp_path / "out.json").read_text())["answer"] == "regression"
    assert ElementTree.parse(tmp_path / "out.junit").getroot()[0].get("failures") == "1"
    assert (tmp_path / "out.markdown").read_text() == (tmp_path / "summary.md").read_text()
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((tmp_path / "out.benchmark-action").read_text())) == 18


def test_exit_codes(two_runs: tuple[str, str], tmp_path: Path) -> None:
    base, _ = two_runs
    same = str(made_up_run(tmp_path, "same", made_up_rows("same", 6)))
    assert main(["compare", base, same, "--policy", "memory", "--inconclusive", "fail"]) == 0
    assert main(["compare", base, same, "--inconclusive", "fail"]) == 2  # one run a side: times cannot tell
    assert main(["compare", base, same]) == 0
    assert main(["compare", base, base, "--inconclusive", "fail"]) == 0


def test_a_policy_of_the_users_own(two_runs: tuple[str, str], tmp_path: Path) -> None:
    policy = tmp_path / "mine.yaml"
    policy.write_text("metrics: {kv_cache_bytes: {min_increase: 10}}\n")
    assert main(["compare", *two_runs, "--policy", str(policy)]) == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["BASE", "nowhere"], "nowhere: no such run"),
        (["EMPTY", "NEW"], "holds no records"),
        (["BASE", "ELSEWHERE"], "of different machines"),
        (["BASE", "NEW", "--policy", "strict"], "--policy strict: unknown; valid: default, memory, noisy"),
        (["BASE", "NEW", "--policy", "broken.yaml"], "broken.yaml: colour: unknown key"),
        (["BASE", "NEW", "--policy", "text.yaml"], "text.yaml: not YAML"),
        (["BASE", "NEW", "--policy", "twice.yaml"], "found duplicate key metrics"),
        (["BASE", "BASE", "--json", "/proc/nowhere/x"], "--json /proc/nowhere/x: cannot be written"),
        (["BASE", "NEW", "--figure", "x.gif"], "--figure x.gif: must end with .png or .svg"),
    ],
)
def test_mistakes_are_one_line(
    two_runs: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.yaml").write_text("colour: blue\n")
    (tmp_path / "text.yaml").write_text("a: [\n")
    (tmp_path / "twice.yaml").write_text("metrics: {}\nmetrics: {latency_ms: {}}\n")
    places = dict(zip(("BASE", "NEW"), two_runs, strict=True))
    places["EMPTY"] = str(made_up_run(tmp_path, "empty", []))
    machine = HEADER.machine | {"cpu": {"model": "Another CPU", "num_logical_cores": 4}}
    places["ELSEWHERE"] = str(made_up_run(tmp_path, "else", made_up_rows("else", 2), machine=machine))
    assert main(["compare", *(places.get(argument, argument) for argument in arguments)]) == 2
    complaint_lines = capsys.readouterr().err.splitlines()
    assert len(complaint_lines) == 1
    assert complaint in complaint_lines[0]


def test_what_cannot_be_written_or_drawn_hides_no_regression(
    two_runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = [
        "--json",
        "/proc/nowhere/x",
        "--figure",
        str(tmp_path / "x.png"),
        "--junit",
        str(tmp_path / "x.xml"),
    ]
    assert main(["compare", *two_runs, "--policy", "memory", *outputs]) == 1
    told = capsys.readouterr().err
    assert "--json /proc/nowhere/x: cannot be written" in told
    assert f"no {tmp_path / 'x.png'}: no metric that scatters was compared" in told
    assert (tmp_path / "x.xml").is_file() and not (tmp_path / "x.png").exists()


def test_a_glob_of_the_base_leaves_out_the_new_run(
    two_runs: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, new = two_runs
    assert main(["compare", str(Path(new).parent / "*"), new, "--policy", "memory"]) == 1
    assert "which the new side is" in capsys.readouterr().out


def test_a_comparison_loads_no_torch(two_runs: tuple[str, str]) -> None:
    code = (
        "import sys; from gqabench.harness.cli import main;"
        f"main(['compare', {two_runs[0]!r}, {two_runs[1]!r}]); print('torch' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines()[-1] == "False"


def test_all_arms_slower_is_the_environment_and_never_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = HEADER.machine | {"libraries": {"torch": "2.14.0"}}
    for number in range(3):
        for name, factor, machine in (("base", 1.0, HEADER.machine), ("new", 1.1, newer)):
            changes = {cell: {"slower": factor} for cell in range(12)}
            rows = made_up_rows(f"{name}-{number}", 12, spread=0.002, seed=number, changes=changes)
            made_up_run(tmp_path, f"{name}-{number}", rows, machine=machine)
    sides = [str(tmp_path / "base-*"), str(tmp_path / "new-*")]
    assert main(["compare", *sides, "--json", str(tmp_path / "out.json")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("inconclusive: 12 cells: 0 regressions, 12 inconclusive")
    assert "; the environment moved: torch 2.13.0, then 2.14.0; all 12 cells are " in last
    assert last.endswith("; arms against each other: no regression")
    move = json.loads((tmp_path / "out.json").read_text())["environment_move"]
    assert move["facts"] == [{"name": "torch", "before": "2.13.0", "after": "2.14.0"}]
    assert move["common"]["num_moved"] == 12
    assert main(["compare", *sides, "--inconclusive", "fail"]) == 2
