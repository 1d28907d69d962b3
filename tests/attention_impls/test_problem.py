"""The problem checks itself, and each message names the key, the value and what is valid."""

import math

import numpy as np
import pytest

from gqabench.attention_impls import AttentionProblem, InvalidCombination, InvalidProblem

COUNTS = ["batch_size", "q_len", "kv_len", "num_q_heads", "num_kv_heads", "head_dim"]


@pytest.mark.parametrize("key", COUNTS)
@pytest.mark.parametrize("value", [0, -3, 2.5, "many", True, None])
def test_a_count_must_be_a_positive_whole_number(make_problem, key, value):
    with pytest.raises(InvalidProblem) as error:
        make_problem(**{key: value})
    assert str(error.value) == f"{key}={value}: must be a positive whole number"


@pytest.mark.parametrize(
    ("key", "value", "valid"),
    [
        ("window", 0, "a positive whole number or null"),
        ("page_size", 1.5, "a positive whole number or null"),
        ("dtype", "float64", "one of float32, float16, bfloat16"),
        ("kv_dtype", "int4", "one of int8, float8_e4m3, null"),
        ("device", "tpu", "cpu, cuda or cuda:N"),
        ("device", "cuda:", "cpu, cuda or cuda:N"),
        ("device", 0, "cpu, cuda or cuda:N"),
        ("softmax_scale", 0.0, "a positive number or null"),
        ("softmax_scale", math.inf, "a positive number or null"),
        ("softmax_scale", math.nan, "a positive number or null"),
        ("logits_soft_cap", -30.0, "a positive number or null"),
        ("logits_soft_cap", "high", "a positive number or null"),
        ("causal", 1, "true or false"),
        ("kv_lens", 8, "one length per sequence, or null"),
    ],
)
def test_a_value_must_be_valid(make_problem, key, value, valid):
    with pytest.raises(InvalidProblem) as error:
        make_problem(**{key: value})
    assert str(error.value) == f"{key}={value}: must be {valid}"


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"num_q_heads": 12, "num_kv_heads": 5}, ["num_kv_heads=5", "num_q_heads=12", "1, 2, 3, 4, 6, 12"]),
        ({"q_len": 9}, ["q_len=9", "kv_len=8"]),
        ({"kv_lens": (8,)}, ["kv_lens=[8]", "batch_size=2"]),
        ({"kv_lens": (8, 9)}, ["kv_lens=[8, 9]", "between 1 and kv_len=8"]),
    ],
)
def test_values_must_fit_together(make_problem, fields, parts):
    with pytest.raises(InvalidCombination) as error:
        make_problem(**fields)
    assert all(part in str(error.value) for part in parts)


def test_a_length_of_no_tokens_is_invalid(make_problem):
    with pytest.raises(InvalidProblem, match=r"kv_lens=\[0, 8\]: each must be .* between 1 and kv_len=8"):
        make_problem(kv_lens=(0, 8))


def test_arguments_may_be_positional():
    problem = AttentionProblem(1, 3, 7, 4, 2, 16, "float32", "cpu", True, 5, 0.5, 30.0, [6])
    assert problem == AttentionProblem(
        batch_size=1, q_len=3, kv_len=7, num_q_heads=4, num_kv_heads=2, head_dim=16, dtype="float32",
        device="cpu", causal=True, window=5, softmax_scale=0.5, logits_soft_cap=30.0, kv_lens=(6,),
    )  # fmt: skip


def test_numbers_of_numpy_become_pythons(make_problem):
    problem = make_problem(
        batch_size=np.int64(2), window=np.int32(3), softmax_scale=np.float32(0.5), logits_soft_cap=30,
        kv_lens=[np.int64(3), 8],
    )  # fmt: skip
    assert problem == make_problem(window=3, softmax_scale=0.5, logits_soft_cap=30.0, kv_lens=(3, 8))
    values = (problem.batch_size, problem.window, problem.softmax_scale, problem.kv_lens[0])
    assert [type(value) for value in values] == [int, int, float, int]


def test_what_is_derived(make_problem):
    problem = make_problem(num_q_heads=12, num_kv_heads=3, head_dim=64, device="cuda:1", kv_lens=[3, 8])
    assert problem.group_size == 4
    assert problem.scale == 0.125
    assert problem.device_type == "cuda"
    assert problem.kv_lens == (3, 8)
    assert problem.is_ragged
    assert [problem.kv_len_of(0), problem.kv_len_of(1)] == [3, 8]
    assert make_problem(softmax_scale=0.5).scale == 0.5
    assert not make_problem(kv_lens=(8, 8)).is_ragged


def test_bytes_of_an_element(make_problem):
    assert [make_problem(dtype=dtype).itemsize for dtype in ("float32", "float16", "bfloat16")] == [4, 2, 2]
    assert make_problem(dtype="float16").kv_itemsize == 2
    assert [make_problem(kv_dtype=kv_dtype).kv_itemsize for kv_dtype in ("int8", "float8_e4m3")] == [1, 1]


@pytest.mark.parametrize(("q_len", "phase"), [(1, "decode"), (3, "extend"), (8, "prefill")])
def test_phase(make_problem, q_len, phase):
    assert make_problem(q_len=q_len).phase == phase


def test_one_token_in_all_is_a_decode(make_problem):
    assert make_problem(q_len=1, kv_len=1).phase == "decode"


def test_a_problem_is_hashable(make_problem):
    assert {make_problem(kv_lens=[1, 2]): 1}[make_problem(kv_lens=(1, 2))] == 1
