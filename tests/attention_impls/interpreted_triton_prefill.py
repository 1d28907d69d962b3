"""`triton_prefill` on problems: run by `test_triton_impls.py`, through the interpreter or on a GPU."""

from dataclasses import replace

import pytest
import torch

from gqabench.attention_impls import AttentionInputs, AttentionProblem, get_impl
from gqabench.attention_impls.correctness.error_budget import error_budget, output_mismatch
from gqabench.attention_impls.correctness.reference import reference_attention
from gqabench.attention_impls.inputs import make_inputs, make_queries
from gqabench.attention_impls.kernels.triton.device import is_interpreted
from gqabench.attention_impls.kernels.triton.prefill_launch import PrefillConfig, PrefillLaunch

DEVICE = "cpu" if is_interpreted() else "cuda"
ROOM = 0.9
SMALL = PrefillConfig(block_m=32, block_n=16, num_warps=4, num_stages=2)
LARGE = PrefillConfig(block_m=128, block_n=64, num_warps=8, num_stages=2)

CASES = {
    "prefill": ({"q_len": 37}, SMALL),
    "prefill, large tiles": ({"q_len": 150, "dtype": "bfloat16"}, LARGE),
    "two tokens": ({"q_len": 2}, SMALL),
    "mha": ({"q_len": 20, "num_kv_heads": 2}, SMALL),
    "group of 3, rows that end within a group": ({"q_len": 21, "num_q_heads": 6}, SMALL),
    "group of 71": ({"q_len": 3, "kv_len": 20, "num_q_heads": 71, "num_kv_heads": 1}, SMALL),
    "extend": ({"q_len": 9, "kv_len": 70, "dtype": "float16"}, SMALL),
    "extend, bfloat16, head_dim 80": ({"q_len": 9, "kv_len": 45, "dtype": "bfloat16", "head_dim": 80}, SMALL),
    "head_dim 256": ({"q_len": 17, "head_dim": 256}, SMALL),
    "not causal": ({"q_len": 19, "kv_len": 40, "causal": False}, SMALL),
    "window": ({"q_len": 60, "window": 20}, SMALL),
    "window of one": ({"q_len": 30, "window": 1}, SMALL),
    "window, extend": ({"q_len": 20, "kv_len": 90, "window": 50, "dtype": "bfloat16"}, SMALL),
    "ragged": ({"q_len": 21, "kv_lens": (21, 5)}, SMALL),
    "ragged, fewer keys than queries, not causal": (
        {"q_len": 21, "kv_len": 40, "kv_lens": (40, 5), "causal": False}, SMALL,
    ),
    "ragged, window without a key": ({"q_len": 25, "kv_len": 40, "kv_lens": (40, 3), "window": 4}, SMALL),
    "soft cap, scale": ({"q_len": 30, "logits_soft_cap": 2.0, "softmax_scale": 0.3}, SMALL),
}  # fmt: skip

LAUNCHED_TWICE = {"prefill", "ragged"}
"""A GPU launches all cases twice: there, the order of programs may differ."""


def problem_of(**fields: object) -> AttentionProblem:
    defaults = {
        "batch_size": 2,
        "num_q_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 64,
        "kv_len": fields["q_len"],
    }
    return AttentionProblem(**defaults | {"dtype": "float32", "device": DEVICE} | fields)


def require_correct(problem: AttentionProblem, inputs: AttentionInputs, output: torch.Tensor) -> None:
    reference = reference_attention(problem, inputs)
    assert output_mismatch(problem, output) is None
    assert error_budget(problem, inputs, reference).excess(output, reference).error_ratio < ROOM


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference_and_with_itself(case):
    fields, config = CASES[case]
    problem = problem_of(**fields)
    inputs = make_inputs(problem, 0)
    launch = PrefillLaunch(problem, inputs, config)
    output = launch()
    require_correct(problem, inputs, output)
    if case in LAUNCHED_TWICE or not is_interpreted():
        assert torch.equal(output, launch())


def test_the_implementation_reads_queries_and_cache_when_called():
    problem = problem_of(q_len=12, kv_len=30)
    longer = make_inputs(replace(problem, kv_len=50), 0)
    inputs = AttentionInputs(longer.q, longer.k[:, :, :30], longer.v[:, :, :30])
    prepared = get_impl("triton_prefill").prepare(problem, inputs)
    for queries in make_queries(problem, 0, 2):
        inputs.q.copy_(queries)
        require_correct(problem, inputs, prepared())
    inputs.v.mul_(2)
    require_correct(problem, inputs, prepared())
    assert prepared.kv_cache_bytes == inputs.k.nbytes + inputs.v.nbytes
