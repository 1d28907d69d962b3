from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from gqabench.harness.cases.identity import cell_id
from gqabench.harness.cli.commands import COMMANDS
from gqabench.harness.machine.host import HostDescription
from gqabench.harness.machine.source import git_state
from gqabench.harness.sweep.progress import LogDisplay, count_outcomes
from gqabench.results import Outcome

Gqabench = Callable[..., subprocess.CompletedProcess[str]]


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from gqabench.harness.cli import main; main(['--help']);"
        "print([name for name in ('torch', 'pandas', 'hydra', 'numpy', 'matplotlib') if name in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines()[-1] == "[]"
    assert all(command in finished.stdout for command in ("sweep", "report", "list"))


def test_a_sweep_imports_no_torch_in_the_parent(tmp_path: Path) -> None:
    code = (
        "import sys; from gqabench.harness.cli import main;"
        "assert main(['sweep', 'measure=smoke', 'model=gqa_8_2', 'kv_len=16', 'impls=[sdpa]']) == 0;"
        "print('torch' in sys.modules)"
    )
    finished = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert finished.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["swep"], f"swep: unknown command; valid: {', '.join(COMMANDS)}"),
        (["report", "nowhere"], "nowhere: no such run"),
        (["report", "/etc/passwd"], "/etc/passwd: not a run"),
        (["list", "nothing"], "invalid choice: 'nothing'"),
    ],
)
def test_mistakes_are_said_and_exit_with_2(gqabench: Gqabench, arguments: list[str], complaint: str) -> None:
    finished = gqabench(*arguments)
    assert finished.returncode == 2
    assert complaint in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr


def test_list_shapes_gives_cache_bytes_per_token(gqabench: Gqabench) -> None:
    lines = gqabench("list", "shapes").stdout.splitlines()
    last_column = {line.split()[0]: line.split()[-1] for line in lines[1:]}
    assert last_column["llama2_7b"] == "524288"
    assert last_column["llama2_70b"] == "327680"
    assert last_column["llama3_8b"] == "131072"
    assert last_column["mistral_7b"] == "131072"
    assert last_column["qwen2_5_7b"] == "57344"
    assert last_column["falcon_7b"] == "8192"


def test_list_impls_says_why_not(gqabench: Gqabench) -> None:
    rows = {line.split()[0]: line for line in gqabench("list", "impls").stdout.splitlines()}
    assert "yes" in rows["repeat_kv"]
    if rows["impl"] and "cpu" in rows["on"]:
        assert "there is no such kernel for the CPU" in rows["sdpa_cudnn"]


def test_list_studies_and_runs(gqabench: Gqabench) -> None:
    assert "num_kv_heads=32,16,8,4,2,1" in gqabench("list", "studies").stdout
    assert gqabench("list", "runs").stdout == "no runs in results/runs\n"


def test_hydra_shows_configuration_without_running(gqabench: Gqabench, tmp_path: Path) -> None:
    job = gqabench("sweep", "--cfg", "job", "model=mqa_8")
    assert job.returncode == 0
    assert "num_kv_heads: 1" in job.stdout
    assert "model: llama3_8b" in gqabench("sweep", "--info", "defaults-tree").stdout
    assert "gqabench sweep" in gqabench("sweep", "--help").stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("gqabench ", set(COMMANDS)),
        ("gqabench s", set(COMMANDS)),
        ("gqabench list ", {"impls", "shapes", "studies", "runs"}),
        ("gqabench sweep model=mqa", {"model=mqa_8"}),
        ("gqabench sweep study=k", {"study=kv_heads", "study=kv_len"}),
    ],
)
def test_completion(gqabench: Gqabench, line: str, words: set[str]) -> None:
    assert set(gqabench("-sc", "query=bash", COMP_LINE=line).stdout.split()) == words


def test_completion_installs_for_the_program(gqabench: Gqabench) -> None:
    assert "hydra_bash_completion gqabench" in gqabench("sweep", "-sc", "install=bash").stdout


def test_outcomes_are_counted_in_their_own_order() -> None:
    assert count_outcomes(Counter({Outcome.OOM: 1, Outcome.OK: 2})) == "2 ok, 1 oom"
    assert count_outcomes(Counter()) == "no records"


def test_a_log_gets_a_line_for_each_tenth_of_the_cases() -> None:
    stream = StringIO()
    display = LogDisplay(stream)
    display.start(30, 60)
    for _ in range(30):
        display.end_case()
    assert len(stream.getvalue().splitlines()) == 11


def test_the_git_state_of_a_checkout(tmp_path: Path) -> None:
    assert git_state(tmp_path) == {}
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    (tmp_path / "file").write_text("one")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    clean = git_state(tmp_path)
    assert len(clean["git_revision"]) == 40
    assert clean["git_dirty"] is False
    (tmp_path / "file").write_text("two")
    assert git_state(tmp_path)["git_dirty"] is True


def test_a_cell_is_another_one_when_its_file_or_its_torch_changes(
    tmp_path: Path, host: HostDescription
) -> None:
    from gqabench.harness.cases.case import Arm, InvalidCase

    file = tmp_path / "mine.py"
    file.write_text("one")
    case = InvalidCase(reason="", arms=(), fields={})
    arm = Arm(f"{file}:Mine", files=(file,))
    first = cell_id(case, arm, host)
    assert cell_id(case, arm, host) == first
    assert cell_id(case, arm, replace(host, libraries={"torch": "9"})) != first
    assert cell_id(case, Arm("sdpa"), host) != first
    file.write_text("two")
    assert cell_id(case, arm, host) != first
