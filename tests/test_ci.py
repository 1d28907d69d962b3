"""What CI runs is what README and the Makefile say."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
CI = ROOT / ".ci" / "run"


def commands() -> list[str]:
    """Lines of `.ci/run` that are no comments."""
    return [line for line in CI.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]


def dry_run(target: str) -> list[str]:
    """What make would run for a target, without the `.venv` that it would set up first."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    finished = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "--assume-old=.venv/.ready", target],
        cwd=ROOT, env=variables, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return finished.stdout.splitlines()


def test_ci_runs_the_readmes_own_command_for_the_tests() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [printed] = re.findall(r"^    (make test)\b", readme, re.MULTILINE)
    assert printed in commands()
    assert os.access(CI, os.X_OK)


def test_check_is_lint_and_the_tests() -> None:
    assert dry_run("check") == [*dry_run("lint"), *dry_run("test")]
    assert [line.split("-m ")[1].split()[0] for line in dry_run("check")] == [
        "ruff",
        "ruff",
        "codespell_lib",
        "mypy",
        "mypy",
        "pytest",
        "pytest",
    ]


def test_the_newest_versions_are_tested_as_the_locked_are_in_an_environment_of_their_own() -> None:
    locked, newest = dry_run("test"), dry_run("test-newest")
    assert newest[-2:] == [line.replace(".venv/", ".venv-newest/") for line in locked]
    assert not any(".venv/" in line or "requirements.lock" in line for line in newest)
    assert any("--upgrade-strategy eager" in line for line in newest)


def test_each_target_that_a_workflow_makes_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    steps = [
        step.get("run", "")
        for path in (ROOT / ".github" / "workflows").glob("*.yml")
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
        for step in job["steps"]
    ]
    targets = [target for step in steps for target in re.findall(r"\bmake ([a-z-]+)", step)]
    assert "test-newest" in targets
    assert [target for target in targets if f"\n{target}:" not in makefile] == []
