"""Two revisions of this project, made up in a repository of the test's own, compared with each other."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gqabench.harness.ab.pairs import Pair, shared_out
from gqabench.harness.ab.revision_tree import kernel_pins
from gqabench.harness.ab.trial import AbTrial, log_ratio
from gqabench.harness.cases.case import MeasureSettings
from gqabench.results.comparison.false_alarms import FalseAlarms
from gqabench.results.comparison.policy import Policy
from gqabench.results.comparison.verdicts import Answer, CellKey

PROJECT = Path(__file__).resolve().parents[3]
PACKAGES = ("gqabench", "attention_impls", "conf", "harness", "reports", "results")
GROUPED_MATMUL = Path("attention_impls/plain/grouped_matmul.py")
ONE_CELL = (
    "model=gqa_8_2", "kv_len=64", "measure=smoke", "measure.caches=[warm]", "impls=[grouped_matmul,sdpa]",
)  # fmt: skip

Gqabench = Callable[..., subprocess.CompletedProcess[str]]


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two commits: this source, and one that holds a byte more for each token of the cache."""
    folder = tmp_path_factory.mktemp("repository")
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "runs", "baselines")
        shutil.copytree(PROJECT / package, folder / package, ignore=ignored)
    shutil.copy(PROJECT / "requirements.lock", folder)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    code = (folder / GROUPED_MATMUL).read_text()
    larger = code + (
        "\n\n_prepare = GroupedMatmul.prepare\n"
        "def prepare(self, problem, inputs):\n"
        "    prepared = _prepare(self, problem, inputs)\n"
        "    num_tokens = problem.batch_size * problem.kv_len\n"
        "    return PreparedAttention(prepared.run, prepared.kv_cache_bytes + num_tokens)\n"
        "GroupedMatmul.prepare = prepare\n"
    )
    (folder / GROUPED_MATMUL).write_text(larger)
    git(folder, "commit", "-qam", "one byte more for each token")
    return folder


def verdicts_of(folder: Path) -> list[dict[str, Any]]:
    verdicts: list[dict[str, Any]] = json.loads((folder / "verdicts.json").read_text())["verdicts"]
    return verdicts


def test_a_byte_more_for_each_token_is_found_exactly_and_named_alone(
    gqabench_in: Gqabench, repository: Path, tmp_path: Path
) -> None:
    finished = gqabench_in(
        repository, "ab", "HEAD~1", "HEAD", *ONE_CELL, "--policy", "memory",
        "--json", str(tmp_path / "verdicts.json"), XDG_CACHE_HOME=str(tmp_path),
    )  # fmt: skip
    assert finished.returncode == 1, finished.stderr
    found = [one for one in verdicts_of(tmp_path) if one["answer"] == "regression"]
    assert [(one["cell"]["impl"], one["metric"]) for one in found] == [("grouped_matmul", "kv_cache_bytes")]
    assert found[0]["new"] - found[0]["base"] == 64
    assert finished.stderr.count("pair ") == 2, "one pair, and one that confirms: no time was asked for"
    assert git(repository, "worktree", "list").count("\n") == 1, "nothing is left in the user's repository"
    assert len(list((tmp_path / "gqabench" / "trees").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["HEAD"], "HEAD: needs BASE and HEAD"),
        (["nowhere", "HEAD"], "nowhere: is not a git revision here, an interpreter or a folder"),
        (["--self-test", "HEAD"], "HEAD: --self-test takes neither BASE nor HEAD"),
        ([".", ".", "kv_len=none"], "kv_len=none: must be a whole number"),
        ([".", ".", "--budget", "0"], "--budget 0: must be positive"),
        (["", "."], "BASE: is empty; name a git revision"),
    ],
)
def test_mistakes_are_one_line(
    gqabench_in: Gqabench, repository: Path, arguments: list[str], complaint: str
) -> None:
    finished = gqabench_in(repository, "ab", *arguments)
    assert finished.returncode == 2
    assert finished.stderr.splitlines() == [
        next(line for line in finished.stderr.splitlines() if complaint in line)
    ]


def row(latency_ms: float, *, num_bytes: int = 100, outcome: str = "ok") -> dict[str, Any]:
    is_ok = outcome == "ok"
    return {
        "outcome": outcome,
        "reason": None if is_ok else "why",
        "latency_ms": latency_ms if is_ok else None,
        "kv_cache_bytes": num_bytes if is_ok else None,
        "peak_workspace_bytes": None,
        "graph_pool_bytes": None,
    }


CELLS = [CellKey("case", f"impl_{number}") for number in range(3)]


class MadeUpPairs:
    """Stands in for a `PairRunner`: `new` makes the head's row of a cell in the n-th pair."""

    def __init__(self, new: Callable[[CellKey, int], dict[str, Any]]) -> None:
        self._new = new
        self.asked: list[Collection[CellKey] | None] = []

    def run(self, cells: Collection[CellKey] | None = None) -> Pair:
        number = len(self.asked)
        self.asked.append(cells)
        asked = CELLS if cells is None else cells
        return Pair({cell: row(1.0) for cell in asked}, {cell: self._new(cell, number) for cell in asked})


def answers(
    new: Callable[[CellKey, int], dict[str, Any]],
) -> tuple[dict[tuple[str, str], Answer], MadeUpPairs]:
    policy = Policy.from_dict("test", {"metrics": {"latency_ms": {"min_effect": 0.02}, "kv_cache_bytes": {}}})
    pairs = MadeUpPairs(new)
    verdicts = AbTrial(pairs, policy, budget_s=math.inf).run()  # type: ignore[arg-type]
    return {(one.cell.impl, one.metric): one.answer for one in verdicts}, pairs


def jitter(number: int) -> float:
    return 1 + 0.001 * ((number * 7) % 5 - 2)


@pytest.mark.parametrize(("num_arms", "seconds"), [(2, 0.8), (4, 0.75), (8, 0.375), (84, 0.2)])
def test_many_cells_share_what_few_have_to_themselves(num_arms: int, seconds: float) -> None:
    pairs = MeasureSettings(
        name="pairs", target_interval=0.02, unstable_interval=0.1, min_rounds=7, min_samples=20,
        seconds_per_arm=0.8, slice_ms=5, timeout_s=1, caches=("cold",), roofs=False, energy=False,
        max_check_gflop=1,
    )  # fmt: skip
    assert shared_out(pairs, num_arms).seconds_per_arm == pytest.approx(seconds)
    short = replace(pairs, seconds_per_arm=0.05)
    assert shared_out(short, num_arms).seconds_per_arm == 0.05, "never longer than was asked for"


@pytest.mark.parametrize(("budget_s", "is_told"), [(12, True), (300, False)])
def test_a_budget_that_decides_nothing_is_told_after_the_first_pair(budget_s: float, is_told: bool) -> None:
    policy = Policy.from_dict("test", {"metrics": {"latency_ms": {"min_effect": 0.02}}})
    pairs, said = MadeUpPairs(lambda cell, number: row(jitter(number))), []
    now_s = itertools.count(step=5)  # it is asked once for each pair
    trial = AbTrial(pairs, policy, budget_s, said.append, lambda: float(next(now_s)))  # type: ignore[arg-type]
    trial.run()
    told = [line for line in said if "--budget" in line]
    assert bool(told) == is_told
    if is_told:
        assert said.index(told[0]) == 1, "right after the first pair"
        assert "no cell is decided before 3 pairs" in told[0]
        assert trial.is_out_of_time


def test_a_cell_that_is_slower_is_the_only_one_named_and_a_faster_one_is_none() -> None:
    factors = {"impl_0": 1.0, "impl_1": 1.1, "impl_2": 0.5}
    found, pairs = answers(lambda cell, number: row(factors[cell.impl] * jitter(number)))
    assert [key for key, answer in found.items() if answer is not Answer.NO_REGRESSION] == [
        ("impl_1", "latency_ms")
    ]
    assert found["impl_1", "latency_ms"] is Answer.REGRESSION
    assert len(pairs.asked) == 4 + 6, "decided at the first look of each stage"
    assert set(pairs.asked[-1] or ()) == {CELLS[1]}, "only the suspect is measured again"


def test_an_alarm_that_does_not_come_again_is_none() -> None:
    found, _ = answers(lambda cell, number: row(jitter(number), num_bytes=101 if number == 0 else 100))
    assert {found[cell.impl, "kv_cache_bytes"] for cell in CELLS} == {Answer.INCONCLUSIVE}


@pytest.mark.parametrize(("num_bytes", "answer"), [(99, Answer.NO_REGRESSION), (101, Answer.REGRESSION)])
def test_a_byte_more_is_a_regression_and_a_byte_less_is_none(num_bytes: int, answer: Answer) -> None:
    found, _ = answers(lambda cell, number: row(jitter(number), num_bytes=num_bytes))
    assert {found[cell.impl, "kv_cache_bytes"] for cell in CELLS} == {answer}


def test_a_cell_that_fails_later_is_inconclusive_in_time() -> None:
    def new(cell: CellKey, number: int) -> dict[str, Any]:
        return row(1.0, outcome="crash" if cell == CELLS[0] and number == 2 else "ok")

    found, _ = answers(new)
    assert found["impl_0", "latency_ms"] is Answer.INCONCLUSIVE


def test_a_cell_that_is_no_longer_ok_is_a_regression_without_times() -> None:
    found, _ = answers(lambda cell, number: row(1.0, outcome="oom" if cell == CELLS[0] else "ok"))
    assert found["impl_0", "outcome"] is Answer.REGRESSION
    assert ("impl_0", "latency_ms") not in found


def test_ratios_need_two_times() -> None:
    assert log_ratio(row(1.0), row(2.0)) == pytest.approx(math.log(2))
    assert log_ratio(row(1.0), row(2.0, outcome="crash")) is None


def test_only_libraries_that_are_measured_ask_for_an_environment(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        "# a comment\npytest==9.0.0  # gqabench\ntorch==2.13.0  # gqabench\nnumpy==2.4.6  # gqabench\n"
    )
    assert kernel_pins(lock) == {"torch": "2.13.0", "numpy": "2.4.6"}
    assert kernel_pins(tmp_path / "none") == {}


def test_the_rate_of_false_alarms_has_its_exact_interval() -> None:
    counts = FalseAlarms(num_runs=10, num_verdicts=100, num_alarms=0, num_inconclusive=3)
    # Nothing in a hundred: the upper end is 1 - 0.025 ** (1 / 100) = 3.62 %.
    assert counts.lines()[0] == ("false alarms: 0 of 100, 0.0% (95 % interval 0.0% to 3.6%) of the verdicts")
