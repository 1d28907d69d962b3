"""A name is a promise: the kernel that was asked for runs, or the reason says why not."""

import pytest
import torch
from torch.nn.attention import SDPBackend

from gqabench.attention_impls import get_impl
from gqabench.attention_impls.inputs import make_inputs
from gqabench.attention_impls.parts.calls.sdpa_backend_choice import backend_reasons, refusals_of

FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"
MATH = "aten::_scaled_dot_product_attention_math"
REFUSED_CHOICE = [
    "Memory efficient kernel not used because: (Triggered internally at /pytorch/sdp_utils.cpp:810.)",
    "Memory Efficient attention has been runtime disabled. (Triggered internally at /pytorch/sdp.h:1.)",
    "Flash attention kernel not used because: (Triggered internally at /pytorch/sdp_utils.cpp:812.)",
    "Flash Attention does not support non-null attn_mask. (Triggered internally at\n /pytorch/sdp.h:2.)",
    "cuDNN attention kernel not used because: (Triggered internally at /pytorch/sdp_utils.cpp:814.)",
    "cuDNN attention has been runtime disabled. (Triggered internally at /pytorch/sdp_utils.cpp:700.)",
]


@pytest.mark.parametrize(
    ("fields", "kernels"),
    [
        pytest.param({"q_len": 1}, {"sdpa_flash": FLASH, "sdpa_math": MATH}, id="decode"),
        pytest.param({"q_len": 8}, {"sdpa_flash": FLASH, "sdpa_math": MATH}, id="prefill"),
        pytest.param({"q_len": 3, "window": 2}, {"sdpa_flash": FLASH, "sdpa_math": MATH}, id="mask"),
    ],
)
def test_the_pinned_kernel_runs_and_no_other(make_problem, profile_call, fields, kernels):
    problem = make_problem(**fields)
    for name, kernel in kernels.items():
        operators = profile_call(get_impl(name).prepare(problem, make_inputs(problem, 0))).operators
        assert {operator for operator in operators if operator in (FLASH, MATH)} == {kernel}


@pytest.mark.parametrize("name", ["sdpa_flash", "sdpa", "folded_sdpa"])
@pytest.mark.parametrize("fields", [{}, {"window": 3}, {"kv_lens": (3, 8)}])
def test_a_call_of_the_flash_kernel_builds_no_mask_and_copies_nothing(
    make_problem, profile_call, name, fields
):
    problem = make_problem(**fields)
    operators = profile_call(get_impl(name).prepare(problem, make_inputs(problem, 0))).operators
    unwanted = ("where", "masked_fill", "tril", "copy_", "repeat_interleave", "clone", "logical_not")
    assert not [operator for operator in operators if operator.removeprefix("aten::") in unwanted]


@pytest.mark.parametrize("name", ["sdpa_cudnn", "sdpa_efficient"])
def test_a_kernel_that_a_cpu_lacks_says_so(make_problem, name):
    (reason,) = get_impl(name).unsupported_reasons(make_problem())
    assert f"PyTorch {torch.__version__} on cpu" in reason
    assert "no such kernel for the CPU" in reason


def test_the_choice_computes_nothing_however_large_the_problem(make_problem, profile_call):
    problem = make_problem(
        batch_size=64, q_len=2**17, kv_len=2**17, num_q_heads=32, num_kv_heads=8, window=4096
    )
    ran = profile_call(lambda: backend_reasons(problem, SDPBackend.FLASH_ATTENTION))
    assert ran.peak_bytes < 2**20
    assert backend_reasons(problem, SDPBackend.FLASH_ATTENTION) == []


@pytest.mark.parametrize(
    ("label", "refusals"),
    [
        ("flash", ["Flash Attention does not support non-null attn_mask."]),
        ("memory efficient", ["Memory Efficient attention has been runtime disabled."]),
        ("cuDNN", ["cuDNN attention has been runtime disabled."]),
        ("math", []),
    ],
)
def test_pytorchs_refusals_are_read_kernel_by_kernel(label, refusals):
    assert refusals_of(label, REFUSED_CHOICE) == refusals


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(
    ("name", "fields", "serves"),
    [
        ("sdpa_flash", {}, True),
        ("sdpa_flash", {"q_len": 8}, True),
        ("sdpa_flash", {"q_len": 3}, False),
        ("sdpa_flash", {"window": 3}, False),
        ("sdpa_flash", {"dtype": "float32"}, False),
        ("sdpa_cudnn", {}, True),
        ("sdpa_cudnn", {"dtype": "float32"}, False),
        ("sdpa_efficient", {"num_kv_heads": 4}, True),
        ("sdpa_math", {"dtype": "float32", "q_len": 3}, True),
    ],
)
def test_what_cuda_kernels_serve(make_problem, name, fields, serves):
    problem = make_problem(**{"device": "cuda", "dtype": "bfloat16", "head_dim": 64} | fields)
    reasons = get_impl(name).unsupported_reasons(problem)
    assert (not reasons) == serves, reasons
    if serves:
        with torch.inference_mode():
            get_impl(name).prepare(problem, make_inputs(problem, 0))()
