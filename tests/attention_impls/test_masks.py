"""Who sees whom: by hand, and against the words of `AttentionProblem` taken one key at a time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gqabench.attention_impls import AttentionProblem
from gqabench.attention_impls.parts.formulas.masks import (
    MaskKind,
    additive_mask,
    key_ranges,
    mask_kind,
    visibility_mask,
)


def rows_of(mask: torch.Tensor) -> list[str]:
    return ["".join("x" if seen else "." for seen in row) for row in mask.tolist()]


def sees(problem: AttentionProblem, sequence: int, query: int, key: int) -> bool:
    """The docstring of `AttentionProblem`, word for word."""
    position = problem.kv_len_of(sequence) - problem.q_len + query
    if not key < problem.kv_len_of(sequence):
        return False
    if (problem.causal or problem.window is not None) and not key <= position:
        return False
    return problem.window is None or key > position - problem.window


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"q_len": 3, "kv_len": 7}, ["xxxxx..", "xxxxxx.", "xxxxxxx"], id="extend"),
        pytest.param({"q_len": 3, "kv_len": 3}, ["x..", "xx.", "xxx"], id="prefill"),
        pytest.param({"q_len": 3, "kv_len": 7, "window": 2}, ["...xx..", "....xx.", ".....xx"], id="window"),
        pytest.param({"q_len": 1, "kv_len": 5, "window": 3}, ["..xxx"], id="decode with a window"),
        pytest.param(
            {"q_len": 2, "kv_len": 2, "window": 1, "causal": False}, ["x.", ".x"], id="window is causal"
        ),
    ],
)
def test_mask_by_hand(make_problem, fields, expected):
    mask = visibility_mask(make_problem(**fields))
    assert mask.shape[:2] == (1, 1)
    assert rows_of(mask[0, 0]) == expected


def test_ragged_mask_by_hand(make_problem):
    mask = visibility_mask(make_problem(batch_size=3, q_len=3, kv_len=5, kv_lens=(5, 4, 2)))
    assert rows_of(mask[0, 0]) == ["xxx..", "xxxx.", "xxxxx"]
    assert rows_of(mask[1, 0]) == ["xx...", "xxx..", "xxxx."]
    assert rows_of(mask[2, 0]) == [".....", "x....", "xx..."]


def test_sequences_of_one_length_share_a_mask(make_problem):
    mask = visibility_mask(make_problem(q_len=1, kv_len=4, kv_lens=(3, 3)))
    assert mask.shape == (1, 1, 1, 4)
    assert rows_of(mask[0, 0]) == ["xxx."]


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"q_len": 1, "causal": True}, id="causal decode"),
        pytest.param({"q_len": 1, "causal": False}, id="decode"),
        pytest.param({"q_len": 1, "window": 8}, id="decode with a window of all keys"),
        pytest.param({"q_len": 5, "causal": False}, id="not causal"),
        pytest.param({"q_len": 1, "kv_lens": (8, 8)}, id="lengths that are all kv_len"),
    ],
)
def test_no_mask_where_every_query_sees_every_key(make_problem, fields):
    problem = make_problem(**fields)
    assert mask_kind(problem) is MaskKind.NONE
    assert visibility_mask(problem) is None
    assert additive_mask(problem) is None


@given(problem=st.from_type(AttentionProblem))
def test_mask_says_what_the_problem_says(problem):
    expected = torch.tensor(
        [
            [[sees(problem, b, i, j) for j in range(problem.kv_len)] for i in range(problem.q_len)]
            for b in range(problem.batch_size)
        ]
    )
    mask = visibility_mask(problem)
    if mask is None:
        assert bool(expected.all())
    else:
        assert torch.equal(mask[:, 0].expand_as(expected), expected)


@given(problem=st.from_type(AttentionProblem))
def test_upper_left_causal_is_claimed_only_where_it_is_right(problem):
    if mask_kind(problem) is MaskKind.SQUARE_CAUSAL:
        upper_left = torch.ones(problem.q_len, problem.kv_len, dtype=torch.bool).tril()
        assert torch.equal(visibility_mask(problem)[0, 0], upper_left)


def test_a_causal_prefill_needs_no_mask_tensor(make_problem):
    assert mask_kind(make_problem(q_len=8)) is MaskKind.SQUARE_CAUSAL
    assert mask_kind(make_problem(q_len=8, window=8)) is MaskKind.SQUARE_CAUSAL
    assert mask_kind(make_problem(q_len=8, window=7)) is MaskKind.GENERAL
    assert mask_kind(make_problem(q_len=7)) is MaskKind.GENERAL


@given(problem=st.from_type(AttentionProblem), data=st.data())
def test_key_ranges_of_selected_queries(problem, data):
    rows = torch.tensor(data.draw(st.lists(st.integers(0, problem.q_len - 1), min_size=1)))
    for selected, every in zip(key_ranges(problem, rows), key_ranges(problem), strict=True):
        assert torch.equal(selected, every[:, rows])


def test_additive_mask_is_finite_in_rows_that_see_no_key(make_problem):
    mask = additive_mask(make_problem(q_len=3, kv_len=4, kv_lens=(4, 2), dtype="float16"))
    assert mask.bias.dtype == torch.float16
    assert mask.bias[1, 0].tolist() == [[0, 0, 0, 0], [0, *[-torch.inf] * 3], [0, 0, *[-torch.inf] * 2]]
    assert mask.dead_rows.flatten().tolist() == [False, False, False, True, False, False]
    output = mask.zero_dead_rows(torch.ones(2, 5, 3, 6))
    assert bool((output[1, :, 0] == 0).all())
    assert int((output == 0).sum()) == 5 * 6


def test_additive_mask_without_dead_rows_returns_the_output_itself(make_problem):
    mask = additive_mask(make_problem(q_len=3))
    assert mask.dead_rows is None
    output = torch.ones(2, 4, 3, 16)
    assert mask.zero_dead_rows(output) is output
