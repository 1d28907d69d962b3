"""Every implementation against the float64 reference, and which must serve what.

`flex` has tests of its own, since it is compiled for each problem.
"""

from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from attention_impls import AttentionInputs, AttentionProblem, get_impl, list_impls
from attention_impls.error_budget import ErrorBudget, error_budget, max_error, output_mismatch
from attention_impls.inputs import make_inputs, make_queries
from attention_impls.reference import reference_attention

DTYPES = ["float32", "float16", "bfloat16"]
ROOM = 0.9
"""Of the budget: correct implementations keep well away from it."""
CUDA_ONLY = {"sdpa_cudnn", "sdpa_efficient"}
WITH_SOFT_CAP = {"reference", "repeat_kv", "grouped_matmul", "flex"}
DECODE_ONLY = {"folded_sdpa"}
BUILT_IN = list_impls()[:11]
UNCOMPILED = [name for name in BUILT_IN if name != "flex"]

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
    "pages": {"page_size": 4},
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
    """On a CPU."""
    return not (
        name in CUDA_ONLY
        or (name in DECODE_ONLY and problem.q_len != 1)
        or (name not in WITH_SOFT_CAP and problem.logits_soft_cap is not None)
        or problem.kv_dtype is not None
        or problem.page_size is not None
    )


@lru_cache(maxsize=4)
def solved(problem: AttentionProblem) -> tuple[AttentionInputs, torch.Tensor, ErrorBudget]:
    inputs = make_inputs(problem, seed=0)
    reference = reference_attention(problem, inputs)
    return inputs, reference, error_budget(problem, inputs, reference)


def require_correct(name: str, problem: AttentionProblem) -> None:
    inputs, reference, budget = solved(problem)
    with torch.inference_mode():
        output = get_impl(name).prepare(problem, inputs)()
    assert output_mismatch(problem, output) is None
    assert budget.excess(output, reference).error_ratio < ROOM


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", UNCOMPILED)
def test_agrees_with_the_reference_or_says_why_not(name, case, dtype, device):
    problem = problem_of(case, dtype, device)
    reasons = get_impl(name).unsupported_reasons(problem)
    if device == "cpu":
        assert (not reasons) == must_serve(name, problem)
    assert all(reasons)
    if not reasons:
        require_correct(name, problem)


@pytest.mark.parametrize("case", CASES)
def test_flex_serves_what_it_must(case):
    problem = problem_of(case, "float32")
    assert (not get_impl("flex").unsupported_reasons(problem)) == must_serve("flex", problem)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("field", ["kv_dtype", "page_size"])
def test_how_the_cache_is_stored_is_never_ignored(make_problem, name, field):
    problem = make_problem(**{field: {"kv_dtype": "int8", "page_size": 16}[field]})
    assert any(reason.startswith(f"{field}=") for reason in get_impl(name).unsupported_reasons(problem))


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_a_reason(make_problem, name):
    (reason, *_) = get_impl(name).unsupported_reasons(make_problem(device="cuda"))
    assert reason.startswith("device=cuda: PyTorch")


@given(problem=st.from_type(AttentionProblem), seed=st.integers(0, 1000))
@settings(max_examples=100)
def test_all_agree_with_the_reference(problem, seed):
    inputs = make_inputs(problem, seed)
    reference = reference_attention(problem, inputs)
    budget = error_budget(problem, inputs, reference)
    for name in UNCOMPILED:
        impl = get_impl(name)
        assert (not impl.unsupported_reasons(problem)) == must_serve(name, problem)
        if must_serve(name, problem):
            output = impl.prepare(problem, inputs)()
            assert output_mismatch(problem, output) is None
            assert budget.excess(output, reference).error_ratio < ROOM, name


def served(problem: AttentionProblem) -> list[str]:
    return [name for name in UNCOMPILED if must_serve(name, problem)]


@given(problem=st.from_type(AttentionProblem))
def test_keys_past_kv_lens_do_not_matter(problem):
    assume(problem.is_ragged)
    inputs, other = make_inputs(problem, 0), make_inputs(problem, 1)
    for b, length in enumerate(problem.kv_lens):
        other.k[b, :, :length] = inputs.k[b, :, :length]
        other.v[b, :, :length] = inputs.v[b, :, :length]
    changed = AttentionInputs(inputs.q, other.k, other.v)
    for name in served(problem):
        impl = get_impl(name)
        assert torch.equal(impl.prepare(problem, inputs)(), impl.prepare(problem, changed)()), name


@given(problem=st.from_type(AttentionProblem), data=st.data())
def test_keys_before_every_window_do_not_matter(problem, data):
    assume(problem.q_len < problem.kv_len)
    num_unseen = data.draw(st.integers(1, problem.kv_len - problem.q_len))
    window = problem.kv_len - problem.q_len - num_unseen + 1
    problem = replace(problem, window=window, kv_lens=None)
    inputs, other = make_inputs(problem, 0), make_inputs(problem, 1)
    other.k[:, :, num_unseen:] = inputs.k[:, :, num_unseen:]
    other.v[:, :, num_unseen:] = inputs.v[:, :, num_unseen:]
    changed = AttentionInputs(inputs.q, other.k, other.v)
    for name in served(problem):
        impl = get_impl(name)
        assert torch.equal(impl.prepare(problem, inputs)(), impl.prepare(problem, changed)()), name


@given(problem=st.from_type(AttentionProblem), data=st.data())
def test_the_order_of_sequences_does_not_matter(problem, data):
    order = data.draw(st.permutations(range(problem.batch_size)))
    kv_lens = None if problem.kv_lens is None else tuple(problem.kv_lens[b] for b in order)
    permuted_problem = replace(problem, kv_lens=kv_lens)
    inputs, _, budget = solved(problem)
    permuted_inputs = AttentionInputs(inputs.q[order], inputs.k[order], inputs.v[order])
    for name in served(problem):
        impl = get_impl(name)
        output = impl.prepare(problem, inputs)()
        permuted = impl.prepare(permuted_problem, permuted_inputs)()
        assert max_error(permuted, output[order].double()) <= budget.max_error, name


@given(problem=st.from_type(AttentionProblem))
def test_grouped_heads_are_multi_head_attention_with_equal_heads(problem):
    expanded_problem = replace(problem, num_kv_heads=problem.num_q_heads)
    inputs, _, budget = solved(problem)
    heads = torch.arange(problem.num_q_heads) // problem.group_size
    expanded = AttentionInputs(inputs.q, inputs.k[:, heads], inputs.v[:, heads])
    for name in served(problem):
        impl = get_impl(name)
        grouped_output = impl.prepare(problem, inputs)()
        expanded_output = impl.prepare(expanded_problem, expanded)()
        assert max_error(grouped_output, expanded_output.double()) <= 2 * budget.max_error, name


@given(problem=st.from_type(AttentionProblem), data=st.data())
def test_the_last_query_of_a_chunk_is_a_decode_step(problem, data):
    """Bottom-right alignment: the last query sees the same, however many queries stand before it."""
    assume(problem.q_len > 1)
    name = data.draw(st.sampled_from(served(problem)))
    inputs, _, budget = solved(problem)
    decode = AttentionInputs(inputs.q[:, :, -1:].contiguous(), inputs.k, inputs.v)
    output = get_impl(name).prepare(problem, inputs)()
    step = get_impl(name).prepare(replace(problem, q_len=1), decode)()
    assert max_error(output[:, :, -1:], step.double()) <= 2 * budget.max_error


@pytest.mark.parametrize("name", [name for name in UNCOMPILED if name not in CUDA_ONLY])
@pytest.mark.parametrize("case", ["group of 3", "decode, ragged", "extend", "prefill"])
def test_queries_and_cache_are_read_when_called(name, case):
    problem = problem_of(case, "float32")
    if not must_serve(name, problem):
        pytest.skip("unsupported")
    inputs = make_inputs(problem, 0)
    impl = get_impl(name)
    with torch.inference_mode():
        prepared = impl.prepare(problem, inputs)
        first = prepared().clone()
        inputs.q.copy_(make_queries(problem, 0, 1)[0])
        second = prepared().clone()
        assert max_error(second, reference_attention(problem, inputs)) < 1e-5
        assert float((first - second).abs().max()) > 0.01
        assert impl.reads_cache_in_place
        inputs.v.mul_(2)
        assert max_error(prepared(), 2 * second.double()) < 1e-5


@pytest.mark.parametrize("name", [name for name in UNCOMPILED if name not in CUDA_ONLY])
def test_the_cache_held_is_the_inputs_k_and_v(name):
    problem = problem_of("group of 2", "bfloat16")
    prepared = get_impl(name).prepare(problem, make_inputs(problem, 0))
    assert prepared.kv_cache_bytes == 2 * (2 * 2 * 129 * 64) * 2


@pytest.mark.parametrize("name", [name for name in UNCOMPILED if name not in CUDA_ONLY | {"reference"}])
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
