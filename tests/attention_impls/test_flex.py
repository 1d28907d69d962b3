"""FlexAttention: its block masks against PyTorch's own, and a few compiled problems (some seconds each)."""

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from gqabench.attention_impls import AttentionProblem, get_impl
from gqabench.attention_impls.correctness.error_budget import error_budget, max_error, output_mismatch
from gqabench.attention_impls.correctness.reference import reference_attention
from gqabench.attention_impls.inputs import make_inputs, make_queries
from gqabench.attention_impls.parts.calls.flex_block_mask import flex_block_mask
from gqabench.attention_impls.parts.formulas.masks import visibility_mask

CASES = {
    "decode, group of 3": {"num_q_heads": 6, "kv_len": 37, "head_dim": 80},
    "mqa decode, ragged, bfloat16": {
        "num_kv_heads": 1, "kv_len": 300, "kv_lens": (300, 7), "dtype": "bfloat16",
    },
    "prefill, window, soft cap": {"q_len": 150, "kv_len": 150, "window": 33, "logits_soft_cap": 2.0},
    "extend, fewer keys than queries, float16": {
        "q_len": 5, "kv_len": 9, "kv_lens": (9, 2), "dtype": "float16", "softmax_scale": 0.2,
    },
}  # fmt: skip
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


def dense_blocks(num_blocks: torch.Tensor, indices: torch.Tensor, batch_size: int) -> list[list[list[int]]]:
    """For each sequence and each block of queries, the blocks of keys that are listed, in order."""
    return [
        [sorted(row[:count].tolist()) for count, row in zip(counts.tolist(), rows, strict=True)]
        for counts, rows in zip(
            num_blocks[:, 0].expand(batch_size, -1), indices[:, 0].expand(batch_size, -1, -1), strict=True
        )
    ]


@given(
    lengths=st.lists(st.integers(1, 700), min_size=2, max_size=2),
    q_len=st.integers(1, 700),
    window=st.none() | st.integers(1, 700),
    causal=st.booleans(),
)
@settings(max_examples=40)
def test_blocks_are_those_of_pytorch(lengths, q_len, window, causal):
    kv_len = max(lengths)
    problem = AttentionProblem(
        batch_size=2, q_len=min(q_len, kv_len), kv_len=kv_len, num_q_heads=2, num_kv_heads=1, head_dim=16,
        dtype="float32", device="cpu", window=window, causal=causal, kv_lens=tuple(lengths),
    )  # fmt: skip
    own = flex_block_mask(problem)
    visible = visibility_mask(problem)
    if visible is None:
        assert own is None
        return
    visible = visible.expand(2, 1, -1, -1)[:, 0]
    theirs = create_block_mask(
        lambda b, h, i, j: visible[b, i, j], 2, None, problem.q_len, problem.kv_len, device="cpu"
    )
    for kind in ("kv", "full_kv"):
        own_blocks, their_blocks = (
            dense_blocks(getattr(mask, f"{kind}_num_blocks"), getattr(mask, f"{kind}_indices"), 2)
            for mask in (own, theirs)
        )
        assert own_blocks == their_blocks


def test_a_long_prefill_does_not_evaluate_its_whole_mask(make_problem, profile_call):
    problem = make_problem(batch_size=1, q_len=2**17, kv_len=2**17)
    peak_bytes = profile_call(lambda: flex_block_mask(problem).kv_indices).peak_bytes
    assert peak_bytes < 2**17 * 2**17 / 100


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference_and_reads_queries_when_called(make_problem, case, device):
    problem = make_problem(**{"head_dim": 64, "device": device} | CASES[case])
    impl = get_impl("flex")
    if reasons := impl.unsupported_reasons(problem):
        assert shutil.which("g++") is None, reasons
        pytest.skip(reasons[0])
    inputs = make_inputs(problem, 0)
    with torch.inference_mode():
        prepared = impl.prepare(problem, inputs)
        for queries in make_queries(problem, 0, 2):
            inputs.q.copy_(queries)
            reference = reference_attention(problem, inputs)
            output = prepared()
            assert output_mismatch(problem, output) is None
            budget = error_budget(problem, inputs, reference)
            assert budget.excess(output, reference).error_ratio < 0.9


def test_more_problems_than_torch_compile_allows_for_are_still_compiled(make_problem, profile_call):
    """Past its limit of variants `torch.compile` would run the function uncompiled."""
    impl = get_impl("flex")
    if reasons := impl.unsupported_reasons(make_problem()):
        pytest.skip(reasons[0])
    with torch._dynamo.config.patch(recompile_limit=1):  # monkeypatch would leave the key hidden
        for kv_len in (8, 9, 10):
            problem = make_problem(kv_len=kv_len, head_dim=64)
            inputs = make_inputs(problem, 0)
            prepared = impl.prepare(problem, inputs)
            operators = profile_call(prepared).operators
            assert "aten::softmax" not in operators
            assert max_error(prepared(), reference_attention(problem, inputs)) < 1e-5


def test_no_compiler_is_a_reason(make_problem, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert any(
        "no C++ compiler g++" in reason for reason in get_impl("flex").unsupported_reasons(make_problem())
    )


def test_a_cpu_without_avx2_is_a_reason(make_problem, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert any("AVX2" in reason for reason in get_impl("flex").unsupported_reasons(make_problem()))


@pytest.mark.parametrize(
    ("head_dim", "kv_len", "capability", "is_wrong"),
    [
        (16, 8, "AVX2", True), (8, 40, "AVX2", True), (16, 136, "AVX2", True),
        (16, 48, "AVX2", False), (16, 9, "AVX2", False), (24, 8, "AVX2", False), (16, 8, "AVX512", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["flex", "transformers_flex"])
def test_keys_that_pytorch_gets_wrong_on_avx2_are_unsupported(
    monkeypatch, name, head_dim, kv_len, capability, is_wrong
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    problem = AttentionProblem(1, 1, kv_len, 4, 2, head_dim, "float32", "cpu")
    told = [reason for reason in get_impl(name).unsupported_reasons(problem) if "wrong values" in reason]
    assert len(told) == is_wrong
