"""A moved environment is told from a moved kernel: by simulation, and over runs on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gqabench.results.comparison.compared_side import load_side
from gqabench.results.comparison.environment_move import CommonChange
from gqabench.results.comparison.environment_verdicts import common_change, moved_with, relative_verdicts
from gqabench.results.comparison.metrics import LATENCY
from gqabench.results.comparison.policy import CellGroup, Policy, Rule
from gqabench.results.comparison.scattering_verdicts import judge_cells
from gqabench.results.comparison.stored_runs import compare_sides
from gqabench.results.comparison.verdicts import Answer, Comparison, Verdict
from tests.results.made_up_runs import HEADER, made_up_rows, made_up_run
from tests.results.moved_runs import made_up_sides
from tests.results.noise import MACHINES

POLICY = Policy("default", {"latency_ms": Rule(0.02)})
NUM_TRIES = 40
MOST_ERRORS = 2
"""One try in twenty."""


def tries(**sides: Any) -> Iterator[tuple[CommonChange | None, set[tuple[str, str]], list[Verdict]]]:
    """What all arms did, the kernels named as slower by latency or ratio, and all verdicts of ratios."""
    generator = np.random.default_rng(23)
    for _ in range(NUM_TRIES):
        cells = made_up_sides(generator, **sides)
        common = common_change(cells, POLICY.assumed_run_spread)
        verdicts = relative_verdicts(cells, common, POLICY)
        latencies = [moved_with(one, common) for one in judge_cells(cells, LATENCY, POLICY)]
        slower = [one.cell for one in (*latencies, *verdicts) if one.answer is Answer.REGRESSION]
        yield common, {(cell.case_id, cell.impl) for cell in slower}, verdicts


@pytest.mark.parametrize("shift", [0.1, -0.1])
def test_an_environment_that_moved_is_said_and_no_kernel_is_named(shift: float) -> None:
    num_said = num_named = 0
    for common, named, _ in tries(shift=shift):
        num_said += common is not None and common.change_low <= shift <= common.change_high
        num_named += bool(named)
    assert num_said >= NUM_TRIES - MOST_ERRORS
    assert num_named <= MOST_ERRORS


@pytest.mark.parametrize("num_arms", [2, 3, 4])
@pytest.mark.parametrize("shift", [0.1, -0.1])
def test_a_kernel_that_is_slower_within_a_moved_environment_is_named_alone(
    num_arms: int, shift: float
) -> None:
    found = list(tries(shift=shift, num_arms=num_arms, num_cases=20 // num_arms, slower={(2, 1): 0.2}))
    assert sum(common is not None for common, _, _ in found) >= NUM_TRIES - MOST_ERRORS
    assert sum(named == {("case2", "arm1")} for _, named, _ in found) >= NUM_TRIES - MOST_ERRORS
    changes = [one.change for _, _, verdicts in found for one in verdicts if one.answer is Answer.REGRESSION]
    assert float(np.median([change for change in changes if change is not None])) == pytest.approx(
        0.2, abs=0.03
    )


def test_a_kernel_that_became_faster_makes_its_only_rival_no_slower() -> None:
    faster = list(tries(shift=0.1, num_arms=2, num_cases=10, slower={(2, 1): -0.2}))
    assert sum(bool(named) for _, named, _ in faster) <= MOST_ERRORS
    improved = [{one.cell.impl for one in verdicts if one.is_improvement} for _, _, verdicts in faster]
    assert improved.count({"arm1"}) >= NUM_TRIES - MOST_ERRORS


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("num_runs", "run_spread"), [(3, 0.0), (3, 0.05), (1, 0.0), (1, 0.05)])
def test_without_a_shift_none_is_claimed(machine: str, num_runs: int, run_spread: float) -> None:
    sides = {"machine": machine, "num_runs": num_runs, "run_spread": run_spread}
    claimed = [common for common, _, _ in tries(**sides) if common is not None]
    assert sum(common.is_beyond_runs for common in claimed) <= MOST_ERRORS
    if run_spread == 0:
        assert len(claimed) <= MOST_ERRORS, "nor are two runs said to differ as a whole"


@pytest.mark.parametrize("num_runs", [1, 3])
@pytest.mark.parametrize("num_slower", [1, 2, 3])
def test_what_some_implementations_did_is_no_environment(num_runs: int, num_slower: int) -> None:
    slower = {(case, arm): 0.15 for case in range(5) for arm in range(num_slower)}
    found = list(tries(slower=slower, num_runs=num_runs))
    assert sum(common is not None for common, _, _ in found) <= MOST_ERRORS


@pytest.mark.parametrize("num_runs", [1, 3])
def test_what_half_of_the_cases_did_is_no_environment(num_runs: int) -> None:
    slower = {(case, arm): 0.15 for case in range(3) for arm in range(4)}
    found = list(tries(slower=slower, num_cases=5, num_runs=num_runs))
    assert sum(common is not None for common, _, _ in found) <= MOST_ERRORS


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("num_cases", "num_arms"), [(25, 4), (12, 4), (24, 2)])
def test_with_one_run_a_side_ratios_of_equal_code_seldom_alarm(
    machine: str, num_cases: int, num_arms: int
) -> None:
    """As for latencies themselves: each run's value is one process's, the worst case."""
    sides = {"machine": machine, "num_runs": 1, "num_cases": num_cases, "num_arms": num_arms, "shift": 0.1}
    assert sum(bool(named) for _, named, _ in tries(**sides)) <= MOST_ERRORS


# ----- runs on disk -----


def side(folder: Path, name: str, num_runs: int, factors: Mapping[int, float], **header: Any) -> str:
    """Runs of 24 cells, 12 cases of two arms; `factors` of latency by cell. Their glob."""
    changes = {cell: {"slower": factor} for cell, factor in factors.items()}
    for number in range(num_runs):
        run_id = f"{name}-{number}"
        rows = made_up_rows(
            run_id, 24, spread=0.002, seed=1000 * number + sum(map(ord, name)), changes=changes
        )
        made_up_run(folder, run_id, rows, **header)
    return str(folder / f"{name}-*")


def compare(base: str, new: str, policy: Policy = POLICY) -> Comparison:
    return compare_sides(load_side(base), load_side(new), policy, across_machines=False)


def of_metric(comparison: Comparison, metric: str) -> list[Verdict]:
    return [verdict for verdict in comparison.verdicts if verdict.metric == metric]


ALL_SLOWER = dict.fromkeys(range(24), 1.1)
NEWER_TORCH = HEADER.machine | {"libraries": {"torch": "2.14.0"}}


def test_all_arms_slower_is_inconclusive_with_no_regression_among_them(tmp_path: Path) -> None:
    comparison = compare(side(tmp_path, "base", 3, {}), side(tmp_path, "new", 3, ALL_SLOWER))
    move = comparison.environment_move
    assert move is not None and move.common is not None
    assert (move.facts, move.code, move.is_suspected) == ((), (), False)
    assert (move.common.num_moved, move.common.num_cells, move.common.num_arms) == (24, 24, 2)
    assert move.common.change_low < 0.1 < move.common.change_high
    assert comparison.regressions == []
    assert (comparison.answer, comparison.relative_answer) == (Answer.INCONCLUSIVE, Answer.NO_REGRESSION)
    assert [comparison.exit_code(policy) for policy in ("fail", "warn")] == [2, 0]
    reasons = {one.reason for one in of_metric(comparison, "latency_ms")}
    assert reasons == {"slower together with all arms: judged against the others"}
    values = comparison.to_dict()
    assert values["relative_answer"] == "no regression"
    assert values["environment_move"]["common"]["num_cells"] == 24


def test_a_kernel_slower_beyond_its_environment_is_a_regression(tmp_path: Path) -> None:
    base = side(tmp_path, "base", 3, {})
    comparison = compare(base, side(tmp_path, "new", 3, ALL_SLOWER | {7: 1.32}, machine=NEWER_TORCH))
    (verdict,) = comparison.regressions
    assert (verdict.cell.case_id, verdict.cell.impl, verdict.metric) == (
        "case3", "repeat_kv", "relative_latency",
    )  # fmt: skip
    assert verdict.change == pytest.approx(0.2, abs=0.03)
    assert comparison.exit_code("pass") == 1
    assert comparison.environment_move is not None
    assert [(one.name, one.before, one.after) for one in comparison.environment_move.facts] == [
        ("torch", "2.13.0", "2.14.0")
    ]


def test_a_kernel_slower_with_a_newer_library_is_a_regression_where_the_others_stayed(tmp_path: Path) -> None:
    base = side(tmp_path, "base", 3, {})
    comparison = compare(base, side(tmp_path, "new", 3, {7: 1.2}, machine=NEWER_TORCH))
    assert comparison.environment_move is not None
    assert comparison.environment_move.common is None
    assert {(one.cell.case_id, one.metric) for one in comparison.regressions} == {
        ("case3", "latency_ms"), ("case3", "relative_latency"),
    }  # fmt: skip


def test_a_newer_library_alone_opens_no_cell(tmp_path: Path) -> None:
    base = side(tmp_path, "base", 1, {})
    same, newer = (
        compare(base, side(tmp_path, name, 1, {}, machine=machine))
        for name, machine in (("same", HEADER.machine), ("newer", NEWER_TORCH))
    )
    assert same.environment_move is None
    assert newer.environment_move is not None
    assert (len(newer.inconclusive), newer.regressions) == (len(same.inconclusive), [])


def test_two_single_runs_that_differ_as_a_whole_are_suspected(tmp_path: Path) -> None:
    comparison = compare(side(tmp_path, "base", 1, {}), side(tmp_path, "new", 1, ALL_SLOWER))
    move = comparison.environment_move
    assert move is not None and move.common is not None
    assert (move.is_suspected, move.common.is_beyond_runs) == (True, False)
    assert comparison.answer is Answer.INCONCLUSIVE


def test_a_machine_four_times_slower_is_no_regression_of_every_kernel(tmp_path: Path) -> None:
    base = side(tmp_path, "base", 1, {})
    comparison = compare(base, side(tmp_path, "new", 1, dict.fromkeys(range(24), 4.0)))
    assert comparison.environment_move is not None
    assert not comparison.environment_move.is_suspected
    assert comparison.regressions == []
    assert comparison.answer is Answer.INCONCLUSIVE


def test_all_arms_faster_is_no_regression_and_nobody_s_merit(tmp_path: Path) -> None:
    faster = dict.fromkeys(range(24), 0.8)
    comparison = compare(side(tmp_path, "base", 3, {}), side(tmp_path, "new", 3, faster))
    assert comparison.environment_move is not None
    assert (comparison.answer, comparison.improvements) == (Answer.NO_REGRESSION, [])
    slower_than_the_rest = compare(str(tmp_path / "base-*"), side(tmp_path, "one", 3, faster | {7: 0.96}))
    assert {one.cell.case_id for one in slower_than_the_rest.regressions} == {"case3"}


def test_firmware_and_settings_are_environment_and_no_other_machine(tmp_path: Path) -> None:
    def machine(microcode: str, governor: str) -> dict[str, Any]:
        return HEADER.machine | {
            "cpu": HEADER.machine["cpu"] | {"microcode": microcode, "governor": governor}
        }

    base = side(tmp_path, "base", 1, {}, machine=machine("0x1", "powersave"))
    comparison = compare(base, side(tmp_path, "new", 1, {}, machine=machine("0x2", "performance")))
    assert comparison.environment_move is not None
    assert [(one.name, one.before, one.after) for one in comparison.environment_move.facts] == [
        ("CPU governor", "powersave", "performance"), ("microcode", "0x1", "0x2"),
    ]  # fmt: skip
    older = compare(side(tmp_path, "older", 1, {}), str(tmp_path / "new-*"))
    assert older.environment_move is None, "what an older header does not record is no change"


def test_another_revision_is_code_and_no_environment(tmp_path: Path) -> None:
    code = HEADER.machine | {"code": {"git_revision": "b" * 40, "git_dirty": False}}
    base = side(tmp_path, "base", 3, {})
    assert compare(base, side(tmp_path, "same", 3, {}, machine=code)).environment_move is None
    slower = compare(base, side(tmp_path, "slower", 3, ALL_SLOWER, machine=code))
    assert slower.environment_move is not None
    assert slower.environment_move.facts == ()
    assert [one.name for one in slower.environment_move.code] == ["git revision"]


def test_an_arm_alone_in_its_case_is_compared_with_the_whole_run(tmp_path: Path) -> None:
    def without_a_rival(name: str, factors: Mapping[int, float]) -> str:
        for number in range(3):
            run_id = f"{name}-{number}"
            changes = {cell: {"slower": factor} for cell, factor in factors.items()}
            rows = made_up_rows(
                run_id, 24, spread=0.002, seed=1000 * number + sum(map(ord, name)), changes=changes
            )
            made_up_run(tmp_path, run_id, rows[:6] + rows[7:])
        return str(tmp_path / f"{name}-*")

    comparison = compare(without_a_rival("base", {}), without_a_rival("new", ALL_SLOWER | {7: 1.32}))
    (verdict,) = comparison.regressions
    assert (verdict.cell.case_id, verdict.metric) == ("case3", "relative_latency")
    assert "cells of its run" in verdict.reason
    assert any("1 of the 23 cells are alone in their case" in note for note in comparison.notes)


def test_one_arm_has_no_other_to_be_judged_against(tmp_path: Path) -> None:
    for name, machine in (("base", HEADER.machine), ("new", NEWER_TORCH)):
        made_up_run(tmp_path, name, made_up_rows(name, 24, seed=len(name))[::2], machine=machine)
    comparison = compare(str(tmp_path / "base"), str(tmp_path / "new"))
    assert comparison.environment_move is not None
    assert comparison.relative_answer is None
    assert "arms are not judged against each other: there is one arm" in comparison.notes


def test_ratios_follow_the_rule_of_latencies_unless_they_have_their_own() -> None:
    group = CellGroup({"impl": "sdpa"}, {"latency_ms": Rule(0.2)})
    policy = replace(POLICY, groups=[group])
    assert policy.rule("relative_latency", {"impl": "flex"}) == Rule(0.02)
    assert policy.rule("relative_latency", {"impl": "sdpa"}) == Rule(0.2)
    own = replace(policy, rules={**POLICY.rules, "relative_latency": Rule(0.05)})
    assert own.rule("relative_latency", {"impl": "sdpa"}) == Rule(0.05)
    assert own.rule("latency_ms", {"impl": "sdpa"}) == Rule(0.2)


def test_a_policy_can_leave_ratios_out(tmp_path: Path) -> None:
    policy = replace(POLICY, rules={**POLICY.rules, "relative_latency": Rule(is_judged=False)})
    base, new = side(tmp_path, "base", 3, {}), side(tmp_path, "new", 3, ALL_SLOWER)
    comparison = compare(base, new, policy)
    assert comparison.relative_answer is None
    assert of_metric(comparison, "relative_latency") == []
    assert any("arms are not judged against each other" in note for note in comparison.notes)
