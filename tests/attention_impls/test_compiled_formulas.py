"""The plain formulas given to `torch.compile`: a few problems, since each is compiled (some seconds each)."""

import pytest
import torch

from gqabench.attention_impls import get_impl
from gqabench.attention_impls.correctness.error_budget import error_budget
from gqabench.attention_impls.correctness.reference import reference_attention
from gqabench.attention_impls.inputs import make_inputs, make_queries

NAMES = ["repeat_kv_compiled", "grouped_matmul_compiled"]
CASES = {
    "decode": {"num_q_heads": 6, "kv_len": 37, "logits_soft_cap": 2.0},
    "extend, ragged": {"q_len": 5, "kv_len": 50, "kv_lens": (50, 3), "window": 6, "dtype": "bfloat16"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_reference_and_is_compiled(make_problem, profile_call, name, case):
    problem = make_problem(**CASES[case])
    impl = get_impl(name)
    if reasons := impl.unsupported_reasons(problem):
        pytest.skip(reasons[0])
    inputs = make_inputs(problem, 0)
    with torch.inference_mode():
        prepared = impl.prepare(problem, inputs)
        assert prepared.compile_ms > 0
        for queries in make_queries(problem, 0, 2):
            inputs.q.copy_(queries)
            reference = reference_attention(problem, inputs)
            budget = error_budget(problem, inputs, reference)
            assert budget.excess(prepared(), reference).error_ratio < 0.9
        assert "aten::softmax" not in profile_call(prepared).operators  # it is fused with what is around it


@pytest.mark.parametrize("name", NAMES)
def test_no_compiler_is_a_reason(make_problem, monkeypatch, tmp_path, name):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    (reason,) = get_impl(name).unsupported_reasons(make_problem())
    assert "no C++ compiler g++" in reason
