"""ONNX Runtime's operator: its cache, its memory, and what it refuses."""

import re

import pytest
import torch
from packaging.version import Version

from gqabench.attention_impls import AttentionInputs, get_impl
from gqabench.attention_impls.correctness.error_budget import error_budget
from gqabench.attention_impls.correctness.reference import reference_attention
from gqabench.attention_impls.inputs import make_inputs, make_queries
from gqabench.attention_impls.parts.calls import packages
from gqabench.attention_impls.parts.calls.onnx_gqa_model import needs_query_lengths
from gqabench.attention_impls.peers import onnxruntime_gqa

onnxruntime = pytest.importorskip("onnxruntime")

CASES = {
    "decode": {"kv_len": 129, "num_q_heads": 6},
    "decode, ragged, window": {"kv_len": 41, "kv_lens": (40, 9), "window": 11},
    "decode, soft cap, scale": {"kv_len": 41, "logits_soft_cap": 2.0, "softmax_scale": 0.3},
    "prefill, window": {"q_len": 37, "kv_len": 37, "window": 9},
    "extend": {"q_len": 5, "kv_len": 50},
    "extend, ragged": {"q_len": 5, "kv_len": 50, "kv_lens": (50, 7), "window": 6},
    "extend, one sequence": {"batch_size": 1, "q_len": 5, "kv_len": 50},
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", CASES)
def test_every_call_reads_the_queries_and_agrees_with_the_reference(make_problem, case, dtype):
    problem = make_problem(**CASES[case], dtype=dtype)
    impl = get_impl("onnxruntime_gqa")
    if needs_query_lengths(problem) and Version(onnxruntime.__version__) < Version("1.32"):
        (reason,) = impl.unsupported_reasons(problem)
        assert reason.startswith("batch_size=2: ")
        return
    inputs = make_inputs(problem, 0)
    prepared = impl.prepare(problem, inputs)
    for queries in make_queries(problem, 0, 3):
        inputs.q.copy_(queries)
        reference = reference_attention(problem, inputs)
        assert error_budget(problem, inputs, reference).excess(prepared(), reference).error_ratio < 0.9


def test_a_call_appends_the_new_tokens_to_a_cache_of_its_own(make_problem, monkeypatch):
    problem = make_problem(q_len=2, kv_len=7, batch_size=1)
    inputs = make_inputs(problem, 0)
    bound = {}
    original = onnxruntime_gqa._tensors
    monkeypatch.setattr(
        onnxruntime_gqa, "_tensors", lambda *args: bound.update(original(*args)) or dict(bound)
    )
    prepared = get_impl("onnxruntime_gqa").prepare(problem, inputs)
    assert prepared.kv_cache_bytes == inputs.k.nbytes + inputs.v.nbytes
    bound["past_key"][:, :, 5:] = 0  # as before the new tokens came
    bound["past_value"][:, :, 5:] = 0
    output = prepared()
    assert torch.equal(bound["past_key"], inputs.k)
    assert torch.equal(bound["past_value"], inputs.v)
    torch.testing.assert_close(output, reference_attention(problem, inputs).float())


def test_inputs_need_not_be_contiguous(make_problem):
    problem = make_problem(kv_len=9)
    inputs = make_inputs(problem, 0)
    wide = make_inputs(make_problem(kv_len=20), 0)
    wide.k[:, :, :9], wide.v[:, :, :9] = inputs.k, inputs.v
    parts = AttentionInputs(inputs.q, wide.k[:, :, :9], wide.v[:, :, :9])
    output = get_impl("onnxruntime_gqa").prepare(problem, parts)()
    torch.testing.assert_close(output, reference_attention(problem, inputs).float())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"dtype": "bfloat16"}, "dtype=bfloat16: .*no kernel"),
        ({"head_dim": 12}, "head_dim=12: .*multiple of 8"),
        ({"q_len": 4, "causal": False}, "causal=False"),
        ({"q_len": 4, "kv_lens": (8, 3)}, r"kv_lens=\[8, 3\]: .*q_len=4"),
        ({"page_size": 4}, "page_size=4"),
        ({"kv_dtype": "int8"}, "kv_dtype=int8"),
    ],
)
def test_what_it_cannot_do_is_a_reason(make_problem, monkeypatch, fields, reason):
    monkeypatch.setattr(onnxruntime_gqa, "_knows_query_lengths", lambda: True)
    (only,) = get_impl("onnxruntime_gqa").unsupported_reasons(make_problem(**fields))
    assert re.match(reason, only)


def test_an_operator_that_extends_one_sequence_at_a_time_says_so(make_problem, monkeypatch):
    monkeypatch.setattr(onnxruntime_gqa, "_knows_query_lengths", lambda: False)
    impl = get_impl("onnxruntime_gqa")
    (reason,) = impl.unsupported_reasons(make_problem(q_len=3))
    assert reason.startswith("batch_size=2: ")
    for fields in ({"batch_size": 1, "q_len": 3}, {"q_len": 8}, {}):
        assert impl.unsupported_reasons(make_problem(**fields)) == []


def test_a_package_that_is_not_there_is_a_reason(make_problem, monkeypatch):
    monkeypatch.setattr(packages, "is_installed", lambda module: module != "onnxruntime")
    (reason,) = get_impl("onnxruntime_gqa").unsupported_reasons(make_problem())
    assert reason == "the package onnxruntime is not installed: pip install 'onnx>=1.17' 'onnxruntime>=1.20'"
