"""The budget accepts correct implementations and rejects the mistakes that attention code makes."""

import dataclasses
import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from attention_impls import AttentionInputs, AttentionProblem
from attention_impls.dtypes import torch_dtype
from attention_impls.error_budget import OutputMismatch, error_budget, max_error, output_mismatch
from attention_impls.inputs import make_inputs
from attention_impls.reference import reference_attention

DTYPES = ["float32", "float16", "bfloat16"]
SHAPES = {
    "decode": {"q_len": 1, "kv_len": 128},
    "long decode": {"q_len": 1, "kv_len": 20_000},
    "extend": {"q_len": 5, "kv_len": 300},
    "prefill": {"q_len": 65, "kv_len": 65},
    "window": {"q_len": 64, "kv_len": 64, "window": 16},
    "long window": {"q_len": 300, "kv_len": 300, "window": 128},
    "soft cap": {"q_len": 8, "kv_len": 64, "logits_soft_cap": 5.0},
    "ragged": {"q_len": 1, "kv_len": 100, "kv_lens": (99, 100)},
}


def all_zero(problem: AttentionProblem, inputs: AttentionInputs) -> torch.Tensor:
    return torch.zeros(inputs.q.shape)


def heads_modulo(problem: AttentionProblem, inputs: AttentionInputs) -> torch.Tensor:
    """Query head `h` reads key/value head `h % num_kv_heads`: `repeat` in place of `repeat_interleave`."""
    tiled = AttentionInputs(*(x.repeat(1, problem.group_size, 1, 1) for x in (inputs.k, inputs.v, inputs.v)))
    expanded = dataclasses.replace(problem, num_kv_heads=problem.num_q_heads)
    return reference_attention(expanded, AttentionInputs(inputs.q, tiled.q, tiled.v))


def upper_left_causal(problem: AttentionProblem, inputs: AttentionInputs) -> torch.Tensor:
    q, k, v = (x.double() for x in (inputs.q, inputs.k, inputs.v))
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def one_key_missing(problem: AttentionProblem, inputs: AttentionInputs) -> torch.Tensor:
    without_first = AttentionInputs(inputs.q, inputs.k[:, :, 1:], inputs.v[:, :, 1:])
    return reference_attention(dataclasses.replace(problem, kv_len=problem.kv_len - 1), without_first)


def window_one_wider(problem: AttentionProblem, inputs: AttentionInputs) -> torch.Tensor:
    return reference_attention(dataclasses.replace(problem, window=problem.window + 1), inputs)


def window_one_narrower(problem: AttentionProblem, inputs: AttentionInputs) -> torch.Tensor:
    return reference_attention(dataclasses.replace(problem, window=problem.window - 1), inputs)


def no_soft_cap(problem: AttentionProblem, inputs: AttentionInputs) -> torch.Tensor:
    return reference_attention(dataclasses.replace(problem, logits_soft_cap=None), inputs)


def no_lengths(problem: AttentionProblem, inputs: AttentionInputs) -> torch.Tensor:
    return reference_attention(dataclasses.replace(problem, kv_lens=None), inputs)


def scale_of_another_width(problem: AttentionProblem, inputs: AttentionInputs) -> torch.Tensor:
    return reference_attention(dataclasses.replace(problem, softmax_scale=1 / problem.head_dim), inputs)


MISTAKES = [
    *((shape, all_zero) for shape in SHAPES),
    *((shape, heads_modulo) for shape in SHAPES),
    *((shape, scale_of_another_width) for shape in ("decode", "extend", "prefill")),
    ("decode", upper_left_causal),
    ("extend", upper_left_causal),
    ("decode", one_key_missing),
    ("window", window_one_wider),
    ("window", window_one_narrower),
    ("long window", window_one_wider),
    ("long window", window_one_narrower),
    ("soft cap", no_soft_cap),
    ("ragged", no_lengths),
]


@pytest.fixture
def budget_case(make_problem):
    def build(shape: str, dtype: str, seed: int = 0):
        problem = make_problem(num_q_heads=8, num_kv_heads=2, head_dim=64, dtype=dtype, **SHAPES[shape])
        inputs = make_inputs(problem, seed)
        reference = reference_attention(problem, inputs)
        return problem, inputs, reference, error_budget(problem, inputs, reference)

    return build


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "mistake"), MISTAKES, ids=lambda value: getattr(value, "__name__", value))
def test_a_mistake_is_rejected(budget_case, shape, mistake, dtype):
    problem, inputs, reference, budget = budget_case(shape, dtype)
    wrong = mistake(problem, inputs).to(torch_dtype(problem))
    assert max_error(wrong, reference) > 1.5 * budget


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_rounded_reference_is_accepted_with_room(budget_case, shape, dtype):
    problem, _, reference, budget = budget_case(shape, dtype)
    assert max_error(reference.to(torch_dtype(problem)), reference) < budget / 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(10))
def test_the_budget_of_a_single_key_is_not_small_by_luck(make_problem, dtype, seed):
    """With one key the textbook formula is exact; another order of operations may round at each step."""
    problem = make_problem(batch_size=1, kv_len=1, num_q_heads=1, num_kv_heads=1, head_dim=8, dtype=dtype)
    inputs = make_inputs(problem, seed)
    reference = reference_attention(problem, inputs)
    roundoff = torch.finfo(torch_dtype(problem)).eps / 2
    assert error_budget(problem, inputs, reference) >= 3 * roundoff * float(reference.abs().max())


def test_the_budget_of_selected_rows_is_of_the_same_size(make_problem):
    problem = make_problem(q_len=200, kv_len=200, head_dim=64, dtype="bfloat16")
    inputs = make_inputs(problem, 0)
    rows = torch.tensor([0, 1, 50, 199])
    selected = error_budget(problem, inputs, reference_attention(problem, inputs, rows), rows)
    whole = error_budget(problem, inputs, reference_attention(problem, inputs))
    assert 0.2 * whole < selected <= 1.01 * whole


def test_max_error_is_the_largest_absolute_difference():
    reference = torch.tensor([[1.0, -2.0], [0.5, 4.0]], dtype=torch.float64)
    output = torch.tensor([[1.0, -2.5], [0.5, 4.25]])
    assert max_error(output, reference) == 0.5
    assert max_error(reference, reference) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_output_that_is_not_finite_has_an_infinite_error(value):
    output = torch.zeros(2, 3)
    output[1, 2] = value
    assert max_error(output, torch.zeros(2, 3, dtype=torch.float64)) == math.inf


def test_an_output_that_cannot_be_compared_is_a_mismatch():
    reference = torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(OutputMismatch, match=r"shape \[3, 2\], expected \[2, 3\]"):
        max_error(torch.zeros(3, 2), reference)
    with pytest.raises(OutputMismatch, match=r"torch.int64"):
        max_error(torch.zeros(2, 3, dtype=torch.int64), reference)


def test_output_mismatch_states_what_is_wrong(make_problem):
    problem = make_problem(dtype="float16")
    assert output_mismatch(problem, torch.zeros(2, 4, 1, 16, dtype=torch.float16)) is None
    assert "shape [2, 1, 4, 16], expected [2, 4, 1, 16]" in output_mismatch(problem, torch.zeros(2, 1, 4, 16))
    assert "torch.float32, expected torch.float16" in output_mismatch(problem, torch.zeros(2, 4, 1, 16))
    assert "NoneType" in output_mismatch(problem, None)
