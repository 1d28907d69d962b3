from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from rich.console import Console

from gqabench.reports.verdicts.changes import change_text
from gqabench.reports.verdicts.effects import effects_figure, effects_frame
from gqabench.reports.verdicts.machine_formats import (
    benchmark_action_json,
    comparison_json,
    github_annotations,
    junit_xml,
)
from gqabench.reports.verdicts.markdown import comparison_markdown
from gqabench.reports.verdicts.moved_environment import moved_text
from gqabench.reports.verdicts.terminal import print_comparison
from gqabench.reports.verdicts.wording import summary
from gqabench.results.comparison.environment_move import CommonChange, EnvironmentMove, FactChange
from gqabench.results.comparison.verdicts import Answer, CellKey, Comparison, Verdict

SLOW, SAME, UNSURE = (CellKey(name, impl, problem=f"decode, kv_len {name}") for name, impl in
                      (("1", "sdpa"), ("2", "flex|x"), ("3", "repeat_kv")))  # fmt: skip


@pytest.fixture
def comparison() -> Comparison:
    return Comparison(
        base="main",
        new="my <branch>",
        verdicts=(
            Verdict(cell=SLOW, metric="latency_ms", answer=Answer.REGRESSION, base=1.0, new=1.2, change=0.2,
                    change_low=0.15, change_high=0.25, reason="slower"),
            Verdict(cell=SLOW, metric="kv_cache_bytes", answer=Answer.REGRESSION, base=2**30, new=2**30 + 1,
                    change=2**-30, reason="+1 bytes"),
            Verdict(cell=SAME, metric="latency_ms", answer=Answer.NO_REGRESSION, is_improvement=True,
                    base=2.0, new=1.0, change=-0.5, change_low=-0.55, change_high=-0.45, reason="faster"),
            Verdict(cell=UNSURE, metric="latency_ms", answer=Answer.INCONCLUSIVE, base=1.0, new=1.1,
                    change=0.1, smallest_detectable_change=0.3, reason="100 % noise\nhere"),
            Verdict(cell=UNSURE, metric="outcome", answer=Answer.NO_REGRESSION, base="ok", new="ok"),
        ),
        new_cells=(CellKey("4", "sdpa", problem="decode, kv_len 4"),),
        notes=("torch 2.12 to 2.13",),
    )  # fmt: skip


def test_the_summary_counts_cells_not_verdicts(comparison: Comparison) -> None:
    assert summary(comparison) == (
        "regression: 3 cells: 1 regression, 1 inconclusive, 1 better, 0 as before, 1 new cell"
    )


def unsure(cell: CellKey, metric: str, low: float, change: float, high: float) -> Verdict:
    return Verdict(cell=cell, metric=metric, answer=Answer.INCONCLUSIVE, base=1.0, new=1.0 + change,
                   change=change, change_low=low, change_high=high, min_effect=0.02)  # fmt: skip


def test_the_last_line_says_what_may_be_slower_and_by_how_much() -> None:
    suspect = unsure(SLOW, "latency_ms", 0.022, 0.376, 0.945)
    harmless = unsure(SAME, "latency_ms", -0.3, 0.01, 0.4)
    counts = "inconclusive: 2 cells: 0 regressions, 2 inconclusive, 0 better, 0 as before"
    line = summary(Comparison(base="a", new="b", verdicts=(suspect, harmless)))
    assert line == f"{counts}; one cell may be slower by up to 94.5 %: sdpa, decode, kv_len 1"
    other = unsure(UNSURE, "latency_ms", -0.1, 0.05, 0.2)
    roof = unsure(UNSURE, "roof_fraction", -0.3, -0.1, 0.1)
    line = summary(Comparison(base="a", new="b", verdicts=(other, suspect, roof)))
    assert line == (
        f"{counts}; 2 cells may be slower by up to 94.5 %: the most sdpa, decode, kv_len 1; "
        "one cell may be worse in roof_fraction by up to 30.0 %: repeat_kv, decode, kv_len 3"
    )
    assert summary(Comparison(base="a", new="b", verdicts=(harmless,))).endswith("0 as before")


def test_exit_codes(comparison: Comparison) -> None:
    assert comparison.exit_code("pass") == 1
    unsure = Comparison(base="a", new="b", verdicts=comparison.verdicts[2:])
    assert [unsure.exit_code(policy) for policy in ("fail", "warn", "pass")] == [2, 0, 0]
    assert Comparison(base="a", new="b", verdicts=comparison.verdicts[4:]).exit_code("fail") == 0


def test_the_terminal_shows_what_changed_to_the_byte(comparison: Comparison) -> None:
    console = Console(width=220, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    print_comparison(comparison, console)
    text = console.export_text()
    assert "1,073,741,825 B" in text
    assert "note: torch 2.12 to 2.13" in text
    assert "+30.0 % would have been detected" in " ".join(text.split())
    assert text.splitlines()[-1].startswith("regression: 3 cells")


def test_markdown_escapes_what_others_named(comparison: Comparison) -> None:
    text = comparison_markdown(comparison)
    assert text.startswith("## ❌ GQABench: main → my &lt;branch&gt;\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4  # heading, rule, two regressions, one inconclusive, one better
    assert "flex\\|x" in rows[-1]
    assert "- sdpa, decode, kv_len 4" in text


def test_junit_has_a_case_for_each_verdict(comparison: Comparison) -> None:
    suite = ElementTree.fromstring(junit_xml(comparison))[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("5", "2", "1")
    assert len(suite) == 5
    assert suite[0].find("failure") is not None
    assert suite[3].find("skipped") is not None
    assert list(suite[4]) == []


def test_annotations_stand_on_a_line_each(comparison: Comparison) -> None:
    lines = github_annotations(comparison)
    assert [line.split(" ")[0] for line in lines] == ["::error", "::error", "::warning"]
    assert "100 %25 noise%0Ahere" in lines[2]


def test_json_for_others(comparison: Comparison) -> None:
    values = json.loads(comparison_json(comparison))
    assert values["answer"] == "regression"
    assert [verdict["answer"] for verdict in values["verdicts"]].count("regression") == 2
    entries = json.loads(benchmark_action_json(comparison))
    assert len(entries) == 4  # an outcome is no number
    assert entries[0] == {
        "name": "sdpa, decode, kv_len 1 [latency_ms]", "unit": "ms", "value": 1.2, "extra": "slower",
        "range": "± 5.0%",
    }  # fmt: skip


TORCH = FactChange(name="torch", before="2.11.0", after="2.13.0")
REVISION = FactChange(name="git revision", before="a", after="b")
SLOWER = CommonChange(
    change=0.081, change_low=0.07, change_high=0.092, num_moved=12, num_cells=12, num_arms=4,
    is_beyond_runs=True,
)  # fmt: skip
FASTER = replace(SLOWER, change=-0.1, change_low=-0.12, change_high=-0.08, num_moved=11)


@pytest.mark.parametrize(
    ("move", "text"),
    [
        (
            EnvironmentMove(facts=(TORCH,), code=(REVISION,)),
            "the environment moved: torch 2.11.0, then 2.13.0",
        ),
        (
            EnvironmentMove(facts=(TORCH,), common=SLOWER),
            "the environment moved: torch 2.11.0, then 2.13.0; "
            "all 12 cells are 8.1 % slower (+7.0 % to +9.2 %)",
        ),
        (
            EnvironmentMove(common=FASTER),
            "the environment moved: 11 of 12 cells are 10.0 % faster (-12.0 % to -8.0 %); "
            "no recorded fact of the environment changed",
        ),
        (
            EnvironmentMove(common=SLOWER, code=(REVISION,)),
            "the environment moved, or the code that all arms share: all 12 cells are 8.1 % slower "
            "(+7.0 % to +9.2 %); no recorded fact of the environment changed; "
            "the code changed: git revision a, then b",
        ),
        (
            EnvironmentMove(common=replace(SLOWER, is_beyond_runs=False), is_suspected=True),
            "the two runs differ as a whole: all 12 cells are 8.1 % slower (+7.0 % to +9.2 %); "
            "no recorded fact of the environment changed; "
            "one run a side does not tell whether the environment moved",
        ),
        (
            EnvironmentMove(facts=tuple(replace(TORCH, name=f"library {number}") for number in range(7))),
            "the environment moved: "
            + "; ".join(f"library {number} 2.11.0, then 2.13.0" for number in range(5))
            + "; and 2 more",
        ),
    ],
    ids=["facts", "facts and arms", "arms, faster", "code", "one run a side", "many facts"],
)  # fmt: skip
def test_a_moved_environment_in_words(comparison: Comparison, move: EnvironmentMove, text: str) -> None:
    assert moved_text(comparison) is None
    moved = replace(comparison, environment_move=move, relative_answer=Answer.NO_REGRESSION)
    said = f"{text}; arms against each other: no regression"
    assert moved_text(moved) == said
    assert summary(moved).endswith(f", 1 new cell; {said}")
    assert f"; {said}" in comparison_markdown(moved)
    assert github_annotations(moved)[-1] == f"::notice title=GQABench: environment::{said}".replace(
        "%", "%25"
    )
    assert json.loads(comparison_json(moved))["relative_answer"] == "no regression"


def test_ratios_are_shown_and_kept_from_series_of_times(comparison: Comparison) -> None:
    ratio = Verdict(cell=SLOW, metric="relative_latency", answer=Answer.REGRESSION, base=1.0, new=1.2,
                    change=0.2, reason="slower")  # fmt: skip
    with_ratio = replace(comparison, verdicts=(*comparison.verdicts, ratio))
    assert "| relative_latency | 1.00 | 1.20 | +20.0 % |" in comparison_markdown(with_ratio)
    assert benchmark_action_json(with_ratio) == benchmark_action_json(comparison)
    assert len(effects_frame(with_ratio)) == len(effects_frame(comparison)) + 1


def test_effects_are_of_times_the_largest_first(comparison: Comparison) -> None:
    frame = effects_frame(comparison)
    assert list(frame["change"]) == [20, 10, -50]
    assert list(frame["answer"]) == ["regression", "inconclusive", "better"]
    assert effects_figure(comparison, ".png").startswith(b"\x89PNG")
    assert b"<svg" in effects_figure(comparison, ".svg")
    with pytest.raises(ValueError, match=r"must be \.png or \.svg"):
        effects_figure(comparison, ".gif")
    with pytest.raises(ValueError, match="no effects"):
        effects_figure(Comparison(base="a", new="b", verdicts=comparison.verdicts[1:2]), ".png")


@pytest.mark.parametrize(
    ("change", "text"),
    [(0.053, "+5.3 %"), (-0.3, "-30.0 %"), (2**-20, "+0.0001 %"), (0, "0 %"), (3.5, "+350 %"), (None, "–")],
)
def test_changes_in_words(change: float | None, text: str) -> None:
    assert change_text(change) == text
