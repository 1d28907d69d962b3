from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from gqabench.results.comparison.compared_side import NotComparable, load_side
from gqabench.results.comparison.policy import Policy, Rule
from gqabench.results.comparison.run_spread import Values, judge_values
from gqabench.results.comparison.stored_runs import compare_sides
from gqabench.results.comparison.verdicts import Answer, Comparison, Verdict
from gqabench.results.record import Outcome
from tests.results.made_up_runs import HEADER, made_up_rows, made_up_run
from tests.results.noise import MACHINES

POLICY = Policy(
    "default",
    {name: Rule(0.02 if name == "latency_ms" else 0.0)
     for name in ("latency_ms", "kv_cache_bytes", "peak_workspace_bytes", "roof_fraction")},
)  # fmt: skip
OTHER_MACHINE = HEADER.machine | {"cpu": {"model": "Another CPU", "num_logical_cores": 4}}


def compare(base: Path | str, new: Path | str, *, across_machines: bool = False) -> Comparison:
    return compare_sides(load_side(str(base)), load_side(str(new)), POLICY, across_machines=across_machines)


def runs(folder: Path, name: str, num_runs: int, num_cells: int = 50, **rows: Any) -> str:
    """Several runs of one side; their glob."""
    for number in range(num_runs):
        seed = 1000 * number + sum(map(ord, name))
        made_up_run(
            folder, f"{name}-{number}", made_up_rows(f"{name}-{number}", num_cells, seed=seed, **rows)
        )
    return str(folder / f"{name}-*")


def of_metric(comparison: Comparison, metric: str) -> list[Verdict]:
    return [verdict for verdict in comparison.verdicts if verdict.metric == metric]


def test_a_regression_in_one_cell_of_fifty_is_named_alone(tmp_path: Path) -> None:
    base = runs(tmp_path, "base", 5)
    comparison = compare(base, runs(tmp_path, "new", 5, changes={7: {"slower": 1.1}}))
    (verdict,) = comparison.regressions
    assert (verdict.cell.case_id, verdict.cell.impl, verdict.metric) == ("case3", "repeat_kv", "latency_ms")
    assert verdict.change == pytest.approx(0.1, abs=0.03)
    assert (verdict.num_base, verdict.num_new) == (5, 5)
    assert comparison.exit_code("pass") == 1


def test_a_speed_up_is_better_and_no_regression(tmp_path: Path) -> None:
    base = runs(tmp_path, "base", 5)
    comparison = compare(base, runs(tmp_path, "new", 5, changes={7: {"slower": 0.8}}))
    assert comparison.regressions == []
    assert [verdict.cell.case_id for verdict in comparison.improvements] == ["case3"]


@pytest.mark.parametrize("spread", [0.005, 0.05, 0.3])
def test_equal_runs_raise_no_alarm(tmp_path: Path, spread: float) -> None:
    for seed in range(5):
        folder = tmp_path / str(seed)
        base = runs(folder, "base", 3, spread=spread)
        assert compare(base, runs(folder, f"new{seed}", 3, spread=spread)).regressions == []


def test_one_run_a_side_is_inconclusive_and_says_what_it_assumed(tmp_path: Path) -> None:
    base = runs(tmp_path, "base", 1)
    comparison = compare(base, runs(tmp_path, "new", 1))
    assert {verdict.answer for verdict in of_metric(comparison, "latency_ms")} == {Answer.INCONCLUSIVE}
    assert any("a spread of 10% from run to run is assumed" in note for note in comparison.notes)
    detectable = of_metric(comparison, "latency_ms")[0].smallest_detectable_change
    assert detectable is not None and 0.2 < detectable < 0.8


def test_with_one_run_a_side_a_cell_that_stands_out_is_named(tmp_path: Path) -> None:
    base = runs(tmp_path, "base", 1)
    comparison = compare(base, runs(tmp_path, "new", 1, changes={7: {"slower": 1.4}}))
    assert [verdict.cell.case_id for verdict in comparison.regressions] == ["case3"]


def test_with_one_run_a_side_a_machine_that_is_slower_as_a_whole_is_no_regression(tmp_path: Path) -> None:
    base = runs(tmp_path, "base", 1)
    slower = {number: {"slower": 1.3} for number in range(50)}
    assert compare(base, runs(tmp_path, "new", 1, changes=slower)).regressions == []


def test_bytes_are_exact(tmp_path: Path) -> None:
    base = made_up_run(tmp_path, "base", made_up_rows("base", 4))
    changes = {
        0: {"kv_cache_bytes": (1 << 20) + 1},
        1: {"peak_workspace_bytes": 4095},
        2: {"kv_cache_bytes": None},
    }
    comparison = compare(base, made_up_run(tmp_path, "new", made_up_rows("new", 4, changes=changes)))
    cache = {verdict.cell: verdict for verdict in of_metric(comparison, "kv_cache_bytes")}
    (worse,) = comparison.regressions
    assert (worse.cell.case_id, worse.cell.impl, worse.reason) == ("case0", "sdpa", "+1 bytes")
    assert [one.cell.impl for one in comparison.improvements] == ["repeat_kv"]
    assert [one.reason for one in cache.values() if one.answer == Answer.INCONCLUSIVE] == [
        "the new side has no value"
    ]


@pytest.mark.parametrize("outcome", ["unsupported", "incorrect", "oom", "timeout", "crash", "error"])
def test_an_answer_that_is_lost_is_a_regression(tmp_path: Path, outcome: str) -> None:
    failed = {0: {"outcome": Outcome(outcome), "reason": "why not", "latency_ms": None}}
    good = made_up_run(tmp_path, "good", made_up_rows("good", 4))
    bad = made_up_run(tmp_path, "bad", made_up_rows("bad", 4, changes=failed))
    (verdict,) = compare(good, bad).regressions
    assert (verdict.metric, verdict.base, verdict.new, verdict.reason) == (
        "outcome", "ok", outcome, "why not",
    )  # fmt: skip
    back = compare(bad, good)
    assert back.regressions == []
    assert [(one.metric, one.reason) for one in back.improvements] == [("outcome", "ok now")]
    assert compare(bad, bad).regressions == []


def test_a_missing_cell_is_a_regression_and_a_new_one_is_listed(tmp_path: Path) -> None:
    base = made_up_run(tmp_path, "base", made_up_rows("base", 6)[:5])
    new = made_up_run(tmp_path, "new", made_up_rows("new", 6)[1:])
    comparison = compare(base, new)
    (verdict,) = comparison.regressions
    assert (verdict.new, verdict.reason) == ("missing", "no longer measured")
    assert [cell.case_id for cell in comparison.new_cells] == ["case2"]


def test_a_cell_in_only_some_of_the_runs_is_said(tmp_path: Path) -> None:
    base = runs(tmp_path, "base", 2, num_cells=5)
    for name, num_cells in (("new-0", 5), ("new-1", 3)):
        made_up_run(tmp_path, name, made_up_rows(name, num_cells))
    comparison = compare(base, str(tmp_path / "new-*"))
    some = [note for note in comparison.notes if "in only some of its 2 runs" in note]
    assert some == [f"{tmp_path / 'new-*'}: 2 of the cells compared are in only some of its 2 runs"]


def test_a_flaky_cell_is_a_regression_only_if_it_was_none(tmp_path: Path) -> None:
    crash = {0: {"outcome": Outcome.CRASH, "reason": "signal 11", "latency_ms": None}}
    good = runs(tmp_path, "good", 2, 4)
    made_up_run(tmp_path, "flaky-0", made_up_rows("flaky-0", 4))
    made_up_run(tmp_path, "flaky-1", made_up_rows("flaky-1", 4, changes=crash))
    flaky = str(tmp_path / "flaky-*")
    (verdict,) = compare(good, flaky).regressions
    assert verdict.new == "crash or ok"
    assert of_metric(compare(flaky, flaky), "outcome")[0].answer == Answer.INCONCLUSIVE


def test_a_run_that_was_cut_short_leaves_cells_open(tmp_path: Path) -> None:
    base = made_up_run(tmp_path, "base", made_up_rows("base", 6))
    new = made_up_run(tmp_path, "new", made_up_rows("new", 6)[:4], status="partial")
    comparison = compare(base, new)
    assert comparison.regressions == []
    outcomes = of_metric(comparison, "outcome")
    assert [verdict.answer for verdict in outcomes].count(Answer.INCONCLUSIVE) == 2
    assert any("incomplete (" in note for note in comparison.notes)


def test_records_that_were_truncated_are_said(tmp_path: Path) -> None:
    base = made_up_run(tmp_path, "base", made_up_rows("base", 2))
    new = made_up_run(tmp_path, "new", made_up_rows("new", 2))
    (new / "records.parquet").unlink()
    lines = "\n".join(json.dumps(row) for row in made_up_rows("new", 2))
    (new / "records" / "host.jsonl").write_text(lines[:-30])
    comparison = compare(base, new)
    assert any("an unfinished record is left out" in note for note in comparison.notes)
    assert comparison.regressions == []


def test_different_studies_are_compared_where_they_meet(tmp_path: Path) -> None:
    base = made_up_run(tmp_path, "base", made_up_rows("base", 6))
    new = made_up_run(tmp_path, "new", made_up_rows("new", 2), study="another")
    comparison = compare(base, new)
    assert comparison.regressions == []
    assert any(
        "4 cells of the base that the new side lacks are left out" in note for note in comparison.notes
    )
    rows = [row | {"case_id": f"other {row['case_id']}"} for row in made_up_rows("far", 2)]
    with pytest.raises(NotComparable, match="no cell in common"):
        compare(base, made_up_run(tmp_path, "far", rows, study="far"))


def test_another_machine_is_refused_unless_told(tmp_path: Path) -> None:
    base = made_up_run(tmp_path, "base", made_up_rows("base", 4))
    changes = {0: {"slower": 3.0, "roof_fraction": 0.5}, 1: {"kv_cache_bytes": 1 << 21}}
    new = made_up_run(tmp_path, "new", made_up_rows("new", 4, changes=changes), machine=OTHER_MACHINE)
    with pytest.raises(NotComparable, match=r"another-cpu-4-cores and some-cpu-8-cores.*--across-machines"):
        compare(base, new)
    comparison = compare(base, new, across_machines=True)
    assert {verdict.metric for verdict in comparison.verdicts} == {
        "outcome", "kv_cache_bytes", "peak_workspace_bytes", "roof_fraction",
    }  # fmt: skip
    assert [verdict.metric for verdict in comparison.regressions] == ["kv_cache_bytes"]


def test_a_lost_share_of_the_roof_is_worse(tmp_path: Path) -> None:
    def side(name: str, fraction: float) -> Path:
        changes = {number: {"roof_fraction": fraction} for number in range(4)}
        return made_up_run(tmp_path, name, made_up_rows(name, 4, changes=changes))

    base, new = side("base", 0.8), side("new", 0.1)
    assert len(compare(base, new, across_machines=True).regressions) == 4
    assert compare(new, base, across_machines=True).regressions == []


def test_an_unknown_machine_leaves_times_out(tmp_path: Path) -> None:
    base = made_up_run(tmp_path, "base", made_up_rows("base", 2))
    new = made_up_run(tmp_path, "new", made_up_rows("new", 2), machine={})
    comparison = compare(base, new)
    assert of_metric(comparison, "latency_ms") == []
    assert any("the machine of a side is not recorded" in note for note in comparison.notes)


def test_times_under_other_conditions_are_not_compared(tmp_path: Path) -> None:
    base = made_up_run(tmp_path, "base", made_up_rows("base", 3))
    changes = {0: {"num_threads": 4, "slower": 9.0}, 1: {"flags": ["background_load"], "slower": 9.0}}
    new = made_up_run(tmp_path, "new", made_up_rows("new", 3, changes=changes))
    comparison = compare(base, new)
    reasons = [verdict.reason for verdict in of_metric(comparison, "latency_ms")]
    assert reasons[:2] == ["num_threads differs: 8 and 4", "conditions differed: background_load on one side"]
    assert comparison.regressions == []


def test_workspace_of_other_thread_counts_is_not_compared(tmp_path: Path) -> None:
    base = made_up_run(tmp_path, "base", made_up_rows("base", 1))
    changes = {0: {"num_threads": 4, "peak_workspace_bytes": 1 << 20, "kv_cache_bytes": 1 << 21}}
    comparison = compare(base, made_up_run(tmp_path, "new", made_up_rows("new", 1, changes=changes)))
    assert [verdict.metric for verdict in comparison.regressions] == ["kv_cache_bytes"]
    (workspace,) = of_metric(comparison, "peak_workspace_bytes")
    assert (workspace.answer, workspace.reason) == (Answer.INCONCLUSIVE, "num_threads differs: 8 and 4")


def test_what_differs_in_software_is_noted(tmp_path: Path) -> None:
    base = made_up_run(tmp_path, "base", made_up_rows("base", 2))
    machine = HEADER.machine | {"libraries": {"torch": "2.14.0"}}
    new = made_up_run(tmp_path, "new", made_up_rows("new", 2), machine=machine)
    assert "torch: 2.13.0, then 2.14.0" in compare(base, new).notes


def test_records_of_the_first_schema_are_compared(tmp_path: Path) -> None:
    base = made_up_run(tmp_path, "base", made_up_rows("base", 2))
    (base / "records.parquet").unlink()
    old = []
    for row in made_up_rows("base", 2):
        del row["graph_pool_bytes"], row["energy_source"]
        old.append(json.dumps(row | {"schema_version": 1}))
    (base / "records" / "host.jsonl").write_text("\n".join(old) + "\n")
    new = made_up_run(tmp_path, "new", made_up_rows("new", 2, changes={0: {"kv_cache_bytes": 1 << 22}}))
    assert [verdict.metric for verdict in compare(base, new).regressions] == ["kv_cache_bytes"]


def test_an_empty_side_is_refused(tmp_path: Path) -> None:
    base = made_up_run(tmp_path, "base", [])
    with pytest.raises(NotComparable, match="holds no records"):
        compare(base, base)


def test_of_a_cell_measured_twice_in_a_run_the_answer_counts(tmp_path: Path) -> None:
    failed = made_up_rows("new", 1, changes={0: {"outcome": Outcome.CRASH, "latency_ms": None}})
    base = made_up_run(tmp_path, "base", made_up_rows("base", 1))
    assert compare(base, made_up_run(tmp_path, "new", failed + made_up_rows("new", 1))).regressions == []


@pytest.mark.parametrize("latency_ms", [None, 0.0, -1.0])
def test_an_old_run_that_lost_a_time_has_a_failure_there(tmp_path: Path, latency_ms: float | None) -> None:
    base = made_up_run(tmp_path, "base", made_up_rows("base", 4))
    lost = made_up_rows("new", 4)
    lost[0] |= {"latency_ms": latency_ms, "schema_version": 2}
    regressions = compare(base, made_up_run(tmp_path, "new", lost)).regressions
    assert [(one.metric, one.new) for one in regressions] == [("outcome", "error")]


def test_a_time_that_is_lost_is_not_as_before(tmp_path: Path) -> None:
    base = made_up_run(tmp_path, "base", made_up_rows("base", 4))
    lost = made_up_run(tmp_path, "new", made_up_rows("new", 4, changes={0: {"roof_fraction": None}}))
    of_shares = of_metric(compare(base, lost, across_machines=True), "roof_fraction")
    (verdict,) = (one for one in of_shares if one.new is None)
    assert (verdict.answer, verdict.reason) == (Answer.INCONCLUSIVE, "the new side has no value")


def test_a_copy_of_a_run_with_other_times_is_not_the_same(tmp_path: Path) -> None:
    base = made_up_run(tmp_path / "a", "run", made_up_rows("run", 20))
    slower = made_up_rows("run", 20, changes={3: {"slower": 3.0}})
    comparison = compare(base, made_up_run(tmp_path / "b", "run", slower))
    assert [one.cell.case_id for one in comparison.regressions] == ["case1"]


@pytest.mark.parametrize("machine", MACHINES)
def test_one_run_a_side_of_equal_code_seldom_alarms(machine: str) -> None:
    """Each run's value is one process's: the worst case. 100 cells, 60 sweeps."""
    generator, num_alarmed = np.random.default_rng(12), 0
    for _ in range(60):
        base, new = MACHINES[machine](generator, 100), MACHINES[machine](generator, 100)
        cells = {cell: Values((base[cell],), (new[cell],), 0.003, 0.02) for cell in range(100)}
        judged = judge_values(cells, POLICY.assumed_run_spread, POLICY.false_discovery_rate)
        num_alarmed += min(false_discovery_control([one.p_worse for one in judged.values()])) <= 0.05
    assert num_alarmed <= 3


@pytest.mark.parametrize("num_cells", [8, 48])
def test_the_change_that_would_have_been_seen_is_seen_and_less_is_not(num_cells: int) -> None:
    generator = np.random.default_rng(2)
    noise = generator.normal(0, 0.01, num_cells)

    def lowest(log_ratio: float) -> tuple[float, float]:
        cells = {cell: Values((0.0,), (noise[cell],), 0.003, 0.02) for cell in range(num_cells)}
        cells[0] = Values((0.0,), (log_ratio,), 0.003, 0.02)
        judged = judge_values(cells, POLICY.assumed_run_spread, POLICY.false_discovery_rate)
        return false_discovery_control([one.p_worse for one in judged.values()])[0], judged[0].detectable

    _, detectable = lowest(0.0)
    assert lowest(detectable + 0.03)[0] <= POLICY.false_discovery_rate
    assert lowest(detectable - 0.03)[0] > POLICY.false_discovery_rate
