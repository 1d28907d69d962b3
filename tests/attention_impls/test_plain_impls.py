"""PyTorch's own ways: which problems each must serve, and what else the contract says of it.

`flex` has tests of its own, since it is compiled for each problem.
"""

import pytest
import torch

from gqabench.attention_impls import AttentionInputs, AttentionProblem, get_impl
from gqabench.attention_impls.correctness.error_budget import (
    ErrorBudget,
    error_budget,
    max_error,
    output_mismatch,
)
from gqabench.attention_impls.correctness.reference import reference_attention
from gqabench.attention_impls.inputs import make_inputs, make_queries

DTYPES = ["float32", "float16", "bfloat16"]
ROOM = 0.9
"""Of the budget: correct implementations keep well away from it."""

ABILITIES = {
    "reference": {"queries", "no window", "soft cap"},
    "repeat_kv": {"queries", "no window", "soft cap", "kv_dtype"},
    "repeat_kv_sdpa": {"queries", "no window", "kv_dtype"},
    "grouped_matmul": {"queries", "no window", "soft cap", "kv_dtype"},
    "blockwise": {"queries", "no window", "soft cap", "kv_dtype"},
    "paged_gather": {"queries", "no window", "soft cap", "kv_dtype", "page_size"},
    "paged_grouped": {"queries", "no window", "soft cap", "kv_dtype", "page_size"},
    "sliding_window": {"soft cap", "kv_dtype"},
    "folded_sdpa": {"no window", "kv_dtype"},
    "sdpa": {"queries", "no window", "kv_dtype"},
    "sdpa_flash": {"queries", "no window"},
    "sdpa_math": {"queries", "no window"},
    "flex": {"queries", "no window", "soft cap"},
}
"""Each must serve all problems that need no more than this; sdpa_flash on a CPU alone."""
EAGER = [name for name in ABILITIES if name != "flex"]
IN_PLACE = [name for name in EAGER if get_impl(name).reads_cache_in_place]
CUDA_ONLY = ["sdpa_cudnn", "sdpa_efficient"]

CASES = {
    "mha decode": {"num_q_heads": 5, "num_kv_heads": 5, "kv_len": 33},
    "group of 2": {"num_q_heads": 4, "num_kv_heads": 2, "kv_len": 129},
    "group of 3": {"num_q_heads": 6, "num_kv_heads": 2, "head_dim": 80, "kv_len": 31},
    "group of 7": {"num_q_heads": 14, "num_kv_heads": 2, "head_dim": 128, "kv_len": 65},
    "group of 8": {"num_q_heads": 16, "num_kv_heads": 2, "head_dim": 256, "kv_len": 17},
    "mqa decode": {"num_q_heads": 7, "num_kv_heads": 1, "head_dim": 80, "kv_len": 300},
    "one token in all": {"kv_len": 1},
    "long decode": {"batch_size": 1, "kv_len": 8191},
    "many sequences": {"batch_size": 17, "kv_len": 40},
    "decode, window": {"kv_len": 50, "window": 7},
    "decode, window of one": {"kv_len": 50, "window": 1},
    "decode, ragged": {"kv_len": 41, "kv_lens": (41, 1)},
    "decode, ragged and window": {"kv_len": 41, "kv_lens": (40, 9), "window": 11},
    "decode, scale": {"kv_len": 50, "softmax_scale": 0.3},
    "mha prefill": {"num_kv_heads": 4, "q_len": 37, "kv_len": 37},
    "prefill": {"q_len": 37, "kv_len": 37},
    "mqa prefill": {"num_kv_heads": 1, "q_len": 65, "kv_len": 65, "head_dim": 128},
    "prefill, not causal": {"q_len": 19, "kv_len": 19, "causal": False},
    "prefill, window": {"q_len": 150, "kv_len": 150, "window": 33},
    "prefill, ragged": {"q_len": 21, "kv_len": 21, "kv_lens": (21, 5)},
    "extend": {"num_q_heads": 6, "q_len": 3, "kv_len": 7, "head_dim": 80},
    "extend by many": {"num_q_heads": 14, "q_len": 130, "kv_len": 259},
    "extend, not causal": {"q_len": 5, "kv_len": 23, "causal": False},
    "extend, window": {"q_len": 9, "kv_len": 100, "window": 4},
    "extend, fewer keys than queries": {"q_len": 9, "kv_len": 12, "kv_lens": (12, 2)},
    "extend, fewer keys, not causal": {"q_len": 9, "kv_len": 12, "kv_lens": (12, 2), "causal": False},
    "decode, soft cap": {"kv_len": 50, "logits_soft_cap": 2.0},
    "prefill, soft cap": {"q_len": 37, "kv_len": 37, "logits_soft_cap": 1.0, "window": 9},
    "int8 cache": {"kv_dtype": "int8"},
    "float8 cache": {"kv_dtype": "float8_e4m3"},
    "pages": {"page_size": 4, "kv_len": 31},
    "ragged pages, int8 cache": {"page_size": 8, "kv_len": 31, "kv_lens": (17, 8), "kv_dtype": "int8"},
    "int8 cache, window": {"kv_len": 50, "window": 7, "kv_dtype": "int8"},
    "prefill, float8 cache, soft cap": {
        "q_len": 37,
        "kv_len": 37,
        "kv_dtype": "float8_e4m3",
        "logits_soft_cap": 2.0,
    },
    "extend over several blocks": {"q_len": 3, "kv_len": 1100, "window": 40, "kv_lens": (1100, 600)},
}

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
        ],
    ),
]


def problem_of(case: str, dtype: str, device: str = "cpu") -> AttentionProblem:
    defaults = {"batch_size": 2, "q_len": 1, "num_q_heads": 4, "num_kv_heads": 2, "kv_len": 8, "head_dim": 64}
    return AttentionProblem(**defaults | CASES[case], dtype=dtype, device=device)


def must_serve(name: str, problem: AttentionProblem) -> bool:
    needs = {
        "queries": problem.q_len != 1,
        "no window": problem.window is None,
        "soft cap": problem.logits_soft_cap is not None,
        "kv_dtype": problem.kv_dtype is not None,
        "page_size": problem.page_size is not None,
    }
    return {need for need, is_needed in needs.items() if is_needed} <= ABILITIES[name]


Solution = tuple[AttentionInputs, torch.Tensor, ErrorBudget]


def solved(problem: AttentionProblem) -> Solution:
    inputs = make_inputs(problem, seed=0)
    reference = reference_attention(problem, inputs)
    return inputs, reference, error_budget(problem, inputs, reference)


def complaint(name: str, problem: AttentionProblem, solution: Solution) -> str | None:
    """Return what is wrong with an implementation's answer or with its refusal; None where nothing is."""
    reasons = get_impl(name).unsupported_reasons(problem)
    if not all(reasons):
        return f"a reason is empty: {reasons}"
    if (serves := may_serve(name, problem)) is not None and serves == bool(reasons):
        return f"must not serve: {serves}" if not reasons else f"must serve: {reasons}"
    if reasons:
        return None
    inputs, reference, budget = solution
    with torch.inference_mode():
        output = get_impl(name).prepare(problem, inputs)()
    if (mismatch := output_mismatch(problem, output)) is not None:
        return mismatch
    observed = budget.excess(output, reference)
    return None if observed.error_ratio < ROOM else f"{observed.error_ratio:.3g} by {observed.criterion}"


def may_serve(name: str, problem: AttentionProblem) -> bool | None:
    """Return whether a problem must be served; None where PyTorch decides, by its version and the GPU."""
    if problem.device == "cpu":
        return name not in CUDA_ONLY and must_serve(name, problem)
    return None if name in ("sdpa_flash", *CUDA_ONLY) else must_serve(name, problem)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_each_agrees_with_the_reference_or_says_why_not(case, dtype, device):
    """One test a problem, as all share its reference, which takes far longer than any of them."""
    problem = problem_of(case, dtype, device)
    solution = solved(problem)
    complaints = {name: complaint(name, problem, solution) for name in [*EAGER, *CUDA_ONLY]}
    assert {name: text for name, text in complaints.items() if text} == {}


@pytest.mark.parametrize("name", EAGER)
def test_each_serves_some_of_the_cases(name):
    """Else its abilities above would say nothing, and what was compared with the reference neither."""
    problems = [problem_of(case, "float32") for case in CASES]
    assert sum(not get_impl(name).unsupported_reasons(problem) for problem in problems) >= 4


@pytest.mark.parametrize("case", CASES)
def test_flex_serves_what_it_must(case):
    problem = problem_of(case, "float32")
    assert (not get_impl("flex").unsupported_reasons(problem)) == must_serve("flex", problem)


@pytest.mark.parametrize("name", [*ABILITIES, *CUDA_ONLY])
@pytest.mark.parametrize(("field", "value"), [("kv_dtype", "int8"), ("page_size", 16)])
def test_how_the_cache_is_stored_is_never_ignored(make_problem, name, field, value):
    problem = make_problem(**{field: value, "window": 5})
    is_refused = any(reason.startswith(f"{field}=") for reason in get_impl(name).unsupported_reasons(problem))
    assert is_refused == (field not in ABILITIES.get(name, set()))


@pytest.mark.parametrize("name", [*ABILITIES, *CUDA_ONLY])
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_a_reason(make_problem, name):
    (reason, *_) = get_impl(name).unsupported_reasons(make_problem(device="cuda"))
    assert reason.startswith("device=cuda: PyTorch")


@pytest.mark.parametrize(
    ("case", "name"),
    [
        (case, name)
        for case in ("group of 3", "decode, ragged and window", "extend", "prefill")
        for name in EAGER
        if must_serve(name, problem_of(case, "float32"))
    ],
)
def test_queries_and_cache_are_read_when_called(name, case):
    problem = problem_of(case, "float32")
    inputs = make_inputs(problem, 0)
    impl = get_impl(name)
    with torch.inference_mode():
        prepared = impl.prepare(problem, inputs)
        first = prepared().clone()
        inputs.q.copy_(make_queries(problem, 0, 1)[0])
        second = prepared().clone()
        assert max_error(second, reference_attention(problem, inputs)) < 1e-5
        assert float((first - second).abs().max()) > 0.01
        factor = 2 if impl.reads_cache_in_place else 1
        inputs.v.mul_(2)
        assert max_error(prepared(), factor * second.double()) < 1e-5


@pytest.mark.parametrize("name", IN_PLACE)
def test_the_cache_held_is_the_inputs_k_and_v(name):
    problem = problem_of("group of 2", "bfloat16")
    prepared = get_impl(name).prepare(problem, make_inputs(problem, 0))
    assert prepared.kv_cache_bytes == 2 * (2 * 2 * 129 * 64) * 2


@pytest.mark.parametrize("name", [name for name in IN_PLACE if name != "reference"])
@pytest.mark.parametrize("case", ["group of 3", "decode, ragged"])
def test_gradients_flow_to_queries_keys_and_values(name, case):
    problem = problem_of(case, "float32")
    inputs = make_inputs(problem, 0)
    exact = AttentionInputs(*(x.double().requires_grad_() for x in (inputs.q, inputs.k, inputs.v)))
    for x in (inputs.q, inputs.k, inputs.v):
        x.requires_grad_()
    get_impl(name).prepare(problem, inputs)().square().sum().backward()
    k, v = (x.repeat_interleave(problem.group_size, dim=1) for x in (exact.k, exact.v))
    mask = None
    if problem.kv_lens is not None:
        mask = torch.arange(problem.kv_len) < torch.tensor(problem.kv_lens)[:, None, None, None]
    torch.nn.functional.scaled_dot_product_attention(exact.q, k, v, attn_mask=mask).square().sum().backward()
    for tensor in ("q", "k", "v"):
        expected = getattr(exact, tensor).grad
        torch.testing.assert_close(getattr(inputs, tensor).grad.double(), expected, rtol=1e-3, atol=1e-5)
