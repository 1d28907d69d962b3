"""Cells as a person names them: each kind of word, words together, and what is said where nothing fits."""

from __future__ import annotations

from typing import Any

import pytest

from gqabench.results.comparison.verdicts import cell_key, problem_text
from gqabench.results.selection import NoSuchCell, arm_names, select_rows
from tests.results.made_up_runs import made_up_rows

PROBLEM = "decode, batch 1, kv_len 64, heads 8/2 x 64, float32, cpu"

ROWS: list[dict[str, Any]] = [
    made_up_rows("run-a", 1)[0] | {"impl": impl, "case_id": case_id, "cell_id": cell_id} | changes
    for impl, case_id, cell_id, changes in (
        ("sdpa", "aa11", "c101", {}),
        ("sdpa", "aa11", "c102", {"environment": "new", "flags": ["unstable", "bimodal"]}),
        ("kernels/k.py:Good", "aa11", "c203", {"flags": ["unstable"]}),
        ("sdpa", "bb22", "c304", {"kv_len": 256, "batch_size": 4, "logits_soft_cap": 30.0}),
        ("repeat_kv", "bb22", "d405", {"kv_len": 256, "batch_size": 4, "logits_soft_cap": 30.0}),
        ("sdpa", "cc33", "d506", {"device": "cuda", "dtype": "float16"}),
        ("sdpa", "cc34", "d607", {"device": "cuda:1", "dtype": "float16"}),
    )
]


def places(*words: str) -> list[int]:
    return [ROWS.index(row) for row in select_rows(ROWS, words)]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("sdpa", [0, 1, 3, 5, 6]),
        ("current:sdpa", [0, 3, 5, 6]),
        ("new:sdpa", [1]),
        ("sdpa @ new", [1]),  # as a report's tables say it
        ("kernels/k.py:Good", [2]),
        ("k.py:Good", [2]),
        ("impl=repeat_kv", [4]),
        ("kv_len=256", [3, 4]),
        ("kv_len=64,256", [0, 1, 2, 3, 4, 5, 6]),
        ("logits_soft_cap=30", [3, 4]),
        ("logits_soft_cap=null", [0, 1, 2, 5, 6]),
        ("flags=bimodal", [1]),
        ("flags=null", [0, 3, 4, 5, 6]),
        ("outcome=ok", [0, 1, 2, 3, 4, 5, 6]),
        ("aa11", [0, 1, 2]),
        ("aa", [0, 1, 2]),
        ("c3", [3]),
        ("cc33", [5]),
    ],
)
def test_one_word(word: str, expected: list[int]) -> None:
    assert places(word) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], [0, 1, 2, 3, 4, 5, 6]),
        (["sdpa", "kv_len=256"], [3]),
        (["sdpa", "repeat_kv", "batch_size=4"], [3, 4]),  # words of one kind add up
        (["kv_len=64", "kv_len=256", "device=cpu"], [0, 1, 2, 3, 4]),
        (["bb22", "repeat_kv"], [4]),
        (["c101", "d405"], [0, 4]),
        ([PROBLEM, "new:sdpa"], [1]),  # a verdict's table has arm and problem in two columns
    ],
)
def test_words_together(words: list[str], expected: list[int]) -> None:
    assert places(*words) == expected


def test_a_whole_id_is_not_the_beginning_of_another() -> None:
    rows = [ROWS[0] | {"cell_id": "cell1"}, ROWS[0] | {"cell_id": "cell10"}]
    assert select_rows(rows, ["cell1"]) == rows[:1]


def test_every_name_of_an_arm_selects_it() -> None:
    assert arm_names(ROWS[1]) == ["new:sdpa", "sdpa", "sdpa @ new"]
    assert all(place in places(name) for place, row in enumerate(ROWS) for name in arm_names(row))


@pytest.mark.parametrize("place", range(len(ROWS)))
def test_the_label_of_a_cell_selects_that_cell_alone(place: int) -> None:
    assert places(cell_key(ROWS[place]).label) == [place]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"sdpa, {PROBLEM}: latency_ms 1 ms to 1.2 ms (+20.0 %): slower", [0]),  # an annotation
        (f"::error title=GQABench: regression::new:sdpa, {PROBLEM}: latency_ms 1 ms to 1.2 ms", [1]),
        (f"regression    new:sdpa           {PROBLEM}  latency_ms   1 ms", [1]),  # a row at a terminal
        (f"  +5.3%  kernels/k.py:Good, {PROBLEM}: latency_ms 1 to 2, from run x", [2]),  # history
        (f"| regression | sdpa | {PROBLEM} | latency_ms | 1 ms |", [0]),  # Markdown
        (f"{PROBLEM} [latency_ms]", [0, 1, 2]),  # a JUnit test case
        (f"head:sdpa, {PROBLEM}", []),
        (f"flex, {PROBLEM}", []),
        (f"sdpa, {PROBLEM.replace('64, heads', '640, heads')}", []),
        (f"sdpa, {problem_text(ROWS[5])}:7", []),  # another device
        ("sdpa, decode, batch 4", [3]),  # a part of a label
        ("decode, kv_len 256, logits_soft_cap 30.0", [3, 4]),
        (f"sdpa, {problem_text(ROWS[6])}: latency_ms", [6]),
    ],
)
def test_a_line_that_was_copied(line: str, expected: list[int]) -> None:
    if expected:
        assert places(line) == expected
    else:
        with pytest.raises(NoSuchCell):
            places(line)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["spda"], "spda: neither an implementation nor an id of these records; nearest: sdpa"),
        (["xyz"], "xyz: neither an implementation nor an id of these records; valid: sdpa, new:sdpa, "),
        ([""], "'': neither an implementation nor an id"),
        (["c"], "c: 6 ids begin with it; valid: c101, c102, c203, c304, cc33, and 1 more"),
        (["batch=1"], "batch=1: unknown key; nearest: batch_size"),
        (["xyz=1"], "xyz=1: unknown key; valid: workload, phase, "),
        (["samples_ms=1"], "samples_ms=1: unknown key"),
        (["timed_call=1"], "timed_call=1: unknown key"),
        (["kv_len=250"], "kv_len=250: no record has it; nearest: 256, 64"),
        (["kv_len=long"], "kv_len=long: no record has it; valid: 64, 256"),
        (["dtype=float17"], "dtype=float17: no record has it; nearest: float16, float32"),
        (["flags=bimodl"], "flags=bimodl: no record has it; nearest: bimodal"),
        (["window=4"], "window=4: no record has it; valid: null"),
        (["repeat_kv", "kv_len=64"], "repeat_kv kv_len=64: no cell fits all of this; nearest: sdpa, decode"),
        (["flex, decode, batch 1, cpu"], "flex, decode, batch 1, cpu: no such cell; "),
    ],
)
def test_what_fits_nothing_is_one_line_with_what_would(words: list[str], complaint: str) -> None:
    with pytest.raises(NoSuchCell) as raised:
        places(*words)
    assert str(raised.value).startswith(complaint)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400
