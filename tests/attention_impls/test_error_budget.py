"""The budget accepts correct implementations and rejects the mistakes that attention code makes."""

import dataclasses
import math
from functools import cache

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from gqabench.attention_impls import AttentionInputs, AttentionProblem, get_impl
from gqabench.attention_impls.correctness.error_budget import (
    OutputMismatch,
    error_budget,
    max_error,
    output_mismatch,
)
from gqabench.attention_impls.correctness.reference import reference_attention
from gqabench.attention_impls.dtypes import torch_dtype
from gqabench.attention_impls.inputs import make_inputs

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
    k, v = (x.repeat(1, problem.group_size, 1, 1) for x in (inputs.k, inputs.v))
    expanded = dataclasses.replace(problem, num_kv_heads=problem.num_q_heads)
    return reference_attention(expanded, AttentionInputs(inputs.q, k, v))


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
        return problem, *solved(problem, seed)

    return build


@cache
def solved(problem: AttentionProblem, seed: int) -> tuple:
    """Solve a problem once for all mistakes that are tried on it."""
    inputs = make_inputs(problem, seed)
    reference = reference_attention(problem, inputs)
    return inputs, reference, error_budget(problem, inputs, reference)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "mistake"), MISTAKES, ids=lambda value: getattr(value, "__name__", value))
def test_a_mistake_is_rejected(budget_case, shape, mistake, dtype):
    problem, inputs, reference, budget = budget_case(shape, dtype)
    wrong = mistake(problem, inputs).to(torch_dtype(problem))
    assert budget.excess(wrong, reference).error_ratio > 1.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_rounded_reference_is_accepted_with_room(budget_case, shape, dtype):
    problem, _, reference, budget = budget_case(shape, dtype)
    observed = budget.excess(reference.to(torch_dtype(problem)), reference)
    assert observed.error_ratio < 0.5
    assert observed.max_error < budget.max_error / 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(10))
def test_the_budget_of_a_single_key_is_not_small_by_luck(make_problem, dtype, seed):
    """With one key the textbook formula is exact; another order of operations may round at each step."""
    problem = make_problem(batch_size=1, kv_len=1, num_q_heads=1, num_kv_heads=1, head_dim=8, dtype=dtype)
    inputs = make_inputs(problem, seed)
    reference = reference_attention(problem, inputs)
    roundoff = torch.finfo(torch_dtype(problem)).eps / 2
    assert error_budget(problem, inputs, reference).max_error >= 3 * roundoff * float(reference.abs().max())


def test_the_budget_of_selected_rows_is_of_the_same_size(make_problem):
    problem = make_problem(q_len=200, kv_len=200, head_dim=64, dtype="bfloat16")
    inputs = make_inputs(problem, 0)
    rows = torch.tensor([0, 1, 50, 199])
    selected = error_budget(problem, inputs, reference_attention(problem, inputs, rows), rows)
    whole = error_budget(problem, inputs, reference_attention(problem, inputs))
    assert 0.2 * whole.max_error < selected.max_error <= 1.01 * whole.max_error
    torch.testing.assert_close(selected.row_rms, whole.row_rms[:, :, rows], rtol=0.05, atol=0)


def grouped_decode(problem: AttentionProblem, inputs: AttentionInputs, num_keys: int) -> torch.Tensor:
    shorter = AttentionInputs(inputs.q, inputs.k[:, :, :num_keys], inputs.v[:, :, :num_keys])
    return reference_attention(dataclasses.replace(problem, kv_len=num_keys), shorter)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_q_heads", [8, 32])
@pytest.mark.parametrize("kv_len", [4096, 16384])
def test_the_newest_key_is_missed_in_a_long_decode(make_problem, kv_len, num_q_heads, seed):
    problem = make_problem(
        batch_size=1, kv_len=kv_len, num_q_heads=num_q_heads, head_dim=128, dtype="bfloat16"
    )
    inputs = make_inputs(problem, seed)
    reference = reference_attention(problem, inputs)
    budget = error_budget(problem, inputs, reference)
    wrong = grouped_decode(problem, inputs, kv_len - 1).to(torch.bfloat16)
    observed = budget.excess(wrong, reference)
    assert observed.error_ratio > 1
    assert observed.max_error < budget.max_error or kv_len == 4096  # its size alone does not tell
    assert budget.excess(get_impl("sdpa").prepare(problem, inputs)(), reference).error_ratio < 0.5


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kv_len", [256, 1024])
@pytest.mark.parametrize("num_keys_more", [-1, 1])
def test_one_row_whose_mask_is_off_by_one(make_problem, kv_len, dtype, num_keys_more, seed):
    problem = make_problem(batch_size=1, q_len=kv_len, kv_len=kv_len, num_q_heads=8, head_dim=64, dtype=dtype)
    inputs = make_inputs(problem, seed)
    rows = torch.tensor([0, kv_len * 2 // 3, kv_len - 1])
    reference = reference_attention(problem, inputs, rows)
    budget = error_budget(problem, inputs, reference, rows)
    position = int(rows[1])
    row = AttentionInputs(inputs.q[:, :, position : position + 1], inputs.k, inputs.v)
    wrong = reference.clone()
    wrong[:, :, 1:2] = grouped_decode(
        dataclasses.replace(problem, q_len=1), row, position + 1 + num_keys_more
    )
    assert budget.excess(wrong.to(torch_dtype(problem)), reference).error_ratio > 1.5


@pytest.mark.parametrize("dtype", DTYPES)
def test_late_rows_of_zeros(make_problem, dtype):
    problem = make_problem(batch_size=1, q_len=2048, kv_len=2048, head_dim=64, dtype=dtype)
    inputs, rows = make_inputs(problem, 0), torch.tensor([0, 1, 2000, 2047])
    reference = reference_attention(problem, inputs, rows)
    budget = error_budget(problem, inputs, reference, rows)
    wrong = reference.clone()
    wrong[:, :, 3] = 0
    assert budget.excess(wrong, reference).error_ratio > 10


def accumulated_in_blocks(problem: AttentionProblem, inputs: AttentionInputs, num_keys: int) -> torch.Tensor:
    """A decode whose running sum is stored in the problem's dtype after each block of keys."""
    k, v = (x.float().repeat_interleave(problem.group_size, 1) for x in (inputs.k, inputs.v))
    weights = torch.softmax(inputs.q.float() @ k.mT * problem.scale, -1)
    total = torch.zeros(inputs.q.shape, dtype=torch_dtype(problem))
    for start in range(0, problem.kv_len, num_keys):
        block = slice(start, start + num_keys)
        total = (total.float() + weights[..., block] @ v[:, :, block]).to(total.dtype)
    return total


@pytest.mark.parametrize(("num_keys", "is_seen"), [(1, True), (64, False)])
def test_sums_in_half_precision_are_seen_where_they_are_many(make_problem, num_keys, is_seen):
    """ADR 3 says which are too few to be told from storing logits and probabilities."""
    problem = make_problem(batch_size=1, kv_len=4096, num_q_heads=8, head_dim=64, dtype="bfloat16")
    inputs = make_inputs(problem, 0)
    reference = reference_attention(problem, inputs)
    budget = error_budget(problem, inputs, reference)
    ratio = budget.excess(accumulated_in_blocks(problem, inputs, num_keys), reference).error_ratio
    assert (ratio > 1) == is_seen


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_output_that_is_not_finite_exceeds_every_budget(budget_case, value):
    _, _, reference, budget = budget_case("extend", "float32")
    wrong = reference.clone()
    wrong[1, 2, 3, 4] = value
    assert budget.excess(wrong, reference).error_ratio == math.inf


def test_a_query_that_sees_no_key_must_be_exactly_zero(make_problem):
    problem = make_problem(q_len=5, kv_len=8, kv_lens=(8, 2))
    inputs = make_inputs(problem, 0)
    reference = reference_attention(problem, inputs)
    budget = error_budget(problem, inputs, reference)
    assert budget.excess(reference, reference).error_ratio == 0
    wrong = reference.clone()
    wrong[1, 0, 0, 0] = 1e-9
    assert budget.excess(wrong, reference).error_ratio == math.inf


def test_memory_of_the_budget_is_bounded(make_problem, profile_call):
    problem = make_problem(batch_size=1, q_len=2048, kv_len=4096, num_q_heads=8, num_kv_heads=1)
    inputs = make_inputs(problem, 0)
    reference = torch.zeros(inputs.q.shape, dtype=torch.float64)

    def run() -> torch.Tensor:
        return error_budget(problem, inputs, reference).row_rms

    assert profile_call(run).peak_bytes < 512 * 2**20


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
