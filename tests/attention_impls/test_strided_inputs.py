"""Keys and values as models hold them: within a longer cache, or tokens before heads."""

import pytest
import torch

from gqabench.attention_impls import AttentionInputs, get_impl
from gqabench.attention_impls.correctness.error_budget import error_budget
from gqabench.attention_impls.correctness.reference import reference_attention
from gqabench.attention_impls.inputs import make_inputs
from gqabench.attention_impls.registry import BUILT_IN_IMPLS

SHAPES = {
    "decode": {"kv_len": 37},
    "extend": {"q_len": 5, "kv_len": 37},
    "prefill": {"q_len": 21, "kv_len": 21},
    "int8": {"kv_len": 37, "kv_dtype": "int8"},
    "pages": {"kv_len": 37, "page_size": 8},
    "window": {"kv_len": 37, "window": 9},
}


def within_a_longer_cache(x):
    batch_size, num_heads, num_tokens, head_dim = x.shape
    longer = x.new_full((batch_size + 1, num_heads + 2, num_tokens + 7, head_dim), float("nan"))
    part = longer[1:, 1:-1, 3:-4]
    part.copy_(x)
    return part


def tokens_before_heads(x):
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def within_a_joint_projection(x):
    """As `[batch, tokens, heads, 3 * head_dim]` of one matrix product."""
    batch_size, num_heads, num_tokens, head_dim = x.shape
    joint = x.new_full((batch_size, num_tokens, num_heads, 3 * head_dim), float("nan"))
    part = joint[..., head_dim : 2 * head_dim].transpose(1, 2)
    part.copy_(x)
    return part


ON_CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    ],
)


@pytest.mark.parametrize("device", ["cpu", ON_CUDA])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("lay_out", [within_a_longer_cache, tokens_before_heads, within_a_joint_projection])
def test_strides_do_not_matter(make_problem, lay_out, shape, device):
    dtype = "float32" if device == "cpu" else "bfloat16"
    problem = make_problem(
        head_dim=64, num_q_heads=6, num_kv_heads=2, dtype=dtype, device=device, **SHAPES[shape]
    )
    inputs = make_inputs(problem, seed=0)
    reference = reference_attention(problem, inputs)
    budget = error_budget(problem, inputs, reference)
    strided = AttentionInputs(inputs.q, lay_out(inputs.k), lay_out(inputs.v))
    assert not strided.k.is_contiguous()
    ratios = {}
    for impl in map(get_impl, BUILT_IN_IMPLS):
        if not impl.compiles_each_problem and not impl.unsupported_reasons(problem):
            with torch.inference_mode():
                ratios[impl.name] = budget.excess(impl.prepare(problem, strided)(), reference).error_ratio
    assert len(ratios) >= 2
    assert not {name: ratio for name, ratio in ratios.items() if not ratio <= 1}
