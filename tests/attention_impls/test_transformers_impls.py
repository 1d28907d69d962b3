"""Hugging Face's attention functions: what they really do with grouped heads, and what they refuse."""

import pytest
import torch

from gqabench.attention_impls import get_impl
from gqabench.attention_impls.correctness.error_budget import error_budget
from gqabench.attention_impls.correctness.reference import reference_attention
from gqabench.attention_impls.inputs import make_inputs, make_queries
from gqabench.attention_impls.parts.calls import packages

pytest.importorskip("transformers")

NAMES = ["transformers_eager", "transformers_sdpa"]
CASES = {
    "decode": {"kv_len": 33, "num_q_heads": 6},
    "decode, ragged, window": {"kv_len": 41, "kv_lens": (40, 9), "window": 11},
    "prefill": {"q_len": 37, "kv_len": 37},
    "prefill, not causal": {"q_len": 19, "kv_len": 19, "causal": False},
    "extend": {"q_len": 9, "kv_len": 50, "window": 8},
    "extend, fewer keys than queries": {"q_len": 9, "kv_len": 12, "kv_lens": (12, 2)},
    "mha": {"num_kv_heads": 4, "kv_len": 20},
}


def require_agreement(name, problem):
    inputs = make_inputs(problem, 0)
    with torch.inference_mode():
        prepared = get_impl(name).prepare(problem, inputs)
        for queries in make_queries(problem, 0, 2):
            inputs.q.copy_(queries)
            reference = reference_attention(problem, inputs)
            budget = error_budget(problem, inputs, reference)
            assert budget.excess(prepared(), reference).error_ratio < 0.9


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_reference(make_problem, name, case, dtype):
    require_agreement(name, make_problem(**CASES[case], dtype=dtype))


def test_eager_has_the_soft_cap_of_gemma(make_problem):
    require_agreement("transformers_eager", make_problem(kv_len=50, logits_soft_cap=1.5))


@pytest.mark.parametrize("num_q_heads", [6, 8])
def test_flex_agrees_whether_it_expands_heads_or_not(make_problem, num_q_heads):
    problem = make_problem(num_q_heads=num_q_heads, head_dim=64, q_len=3, kv_len=40, window=17)
    if reasons := get_impl("transformers_flex").unsupported_reasons(problem):
        pytest.skip(reasons[0])
    require_agreement("transformers_flex", problem)


def test_eager_expands_k_and_v_in_every_call(make_problem, profile_call):
    problem = make_problem(num_q_heads=16, kv_len=1000)
    inputs = make_inputs(problem, 0)
    expanded = 8 * (inputs.k.nbytes + inputs.v.nbytes)
    assert profile_call(get_impl("transformers_eager").prepare(problem, inputs)).peak_bytes >= expanded
    unexpanded = profile_call(get_impl("transformers_sdpa").prepare(problem, inputs)).peak_bytes
    assert unexpanded < expanded / 4


@pytest.mark.parametrize("name", [*NAMES, "transformers_flex"])
def test_without_the_package_the_reason_says_how_to_get_it(make_problem, monkeypatch, name):
    monkeypatch.setattr(packages, "is_installed", lambda module: False)
    reasons = get_impl(name).unsupported_reasons(make_problem())
    assert "the package transformers is not installed: pip install 'transformers>=5'" in reasons
