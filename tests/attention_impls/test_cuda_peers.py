"""How problems are put to libraries for CUDA: stand-ins have their parameters and compute what they document.

They run on the CPU, so what is tested is the mapping of layouts, scales, windows, lengths and pages. The
kernels themselves are tested on a GPU, with all other implementations.
"""

import importlib.machinery
import subprocess
import sys
import types

import pytest

from gqabench.attention_impls import get_impl
from gqabench.attention_impls.correctness.error_budget import max_error, output_mismatch
from gqabench.attention_impls.correctness.reference import reference_attention
from gqabench.attention_impls.inputs import make_inputs, make_queries
from tests.attention_impls import graph_stand_ins as graphs
from tests.attention_impls import peer_stand_ins as stand_ins

PEERS = [
    "torch_varlen", "flash_attn_2", "flash_attn_3", "flash_attn_4", "flashinfer_decode", "flashinfer_prefill",
    "flashinfer_xqa", "xformers_splitk", "cudnn_paged", "jax_pallas",
]  # fmt: skip


@pytest.fixture
def _libraries(monkeypatch):
    modules = {
        "flashinfer": {
            "BatchDecodeWithPagedKVCacheWrapper": stand_ins.FlashinferDecode,
            "BatchPrefillWithPagedKVCacheWrapper": stand_ins.FlashinferPrefill,
        },
        "flashinfer.decode": {"xqa_batch_decode_with_kv_cache": stand_ins.flashinfer_xqa},
        "flash_attn": {"flash_attn_with_kvcache": stand_ins.flash_attn_2_with_kvcache},
        "flash_attn.cute": {"flash_attn_func": stand_ins.flash_attn_4_func},
        "flash_attn_interface": {"flash_attn_with_kvcache": stand_ins.flash_attn_3_with_kvcache},
        "cudnn": vars(graphs.cudnn()),
        "xformers": {},
        "xformers.ops": {"fmha": graphs.xformers_fmha()},
        "xformers.ops.fmha": vars(graphs.xformers_fmha()),
        "jax": {},
        "jax.dlpack": {"from_dlpack": lambda x: x},
        "jax.experimental.pallas.ops.gpu.decode_attention": {"mqa": graphs.jax_mqa},
    }
    for name, members in modules.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", stand_ins.varlen_of_2_13)
    stream = types.SimpleNamespace(synchronize=lambda: None, cuda_stream="current")
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: stream)


DECODE = {
    "ragged": {"kv_len": 41, "kv_lens": (41, 9), "num_q_heads": 6},
    "window, scale": {"kv_len": 41, "window": 7, "softmax_scale": 0.3},
    "window of one": {"kv_len": 9, "window": 1},
    "window of all": {"kv_len": 9, "window": 9},
}
MANY = {
    "prefill": {"q_len": 37, "kv_len": 37},
    "extend, window": {"q_len": 5, "kv_len": 50, "window": 8},
    "extend, ragged": {"q_len": 5, "kv_len": 50, "kv_lens": (50, 21)},
    "not causal": {"q_len": 5, "kv_len": 20, "causal": False},
}
CAPPED = {"soft cap": {"kv_len": 20, "logits_soft_cap": 2.0}}
PAGED = {"pages": {"kv_len": 41, "kv_lens": (40, 9), "page_size": 16}}
MAPPED = {
    "torch_varlen": DECODE | MANY | PAGED,
    "flash_attn_2": DECODE | MANY | CAPPED | PAGED,
    "flash_attn_3": DECODE | MANY | CAPPED | PAGED,
    "flashinfer_decode": DECODE | CAPPED | PAGED,
    "flash_attn_4": {name: case for name, case in MANY.items() if "kv_lens" not in case},
    "flashinfer_prefill": MANY,
    "flashinfer_xqa": DECODE | PAGED,
    "xformers_splitk": DECODE,
    "cudnn_paged": DECODE | MANY | PAGED,
    "jax_pallas": DECODE,
}
PLANNED = ("flashinfer_decode", "flashinfer_prefill", "cudnn_paged")


@pytest.mark.usefixtures("_libraries")
@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in MAPPED.items() for case in cases])
def test_a_problem_means_the_same_to_the_library(make_problem, monkeypatch, name, case):
    problem = make_problem(**MAPPED[name][case])
    if name == "cudnn_paged":  # it knows 16-bit dtypes alone; the stand-in computes in any
        monkeypatch.setattr("gqabench.attention_impls.peers.cudnn_paged.CUDNN_DTYPES", {"float32": "FLOAT"})
    inputs = make_inputs(problem, 0)
    prepared = get_impl(name).prepare(problem, inputs)
    for queries in make_queries(problem, 0, 2):
        inputs.q.copy_(queries)
        assert max_error(prepared(), reference_attention(problem, inputs)) < 1e-5
    assert prepared.kv_cache_bytes >= 2 * 2 * 16 * 4 * sum(problem.kv_lens or (problem.kv_len,) * 2)
    assert (prepared.plan_ms is not None) == (name in PLANNED)


@pytest.mark.parametrize("name", PEERS)
def test_on_a_cpu_the_reason_is_that(make_problem, name):
    q_len = 4 if name in ("flash_attn_4", "flashinfer_prefill") else 1
    problem = make_problem(dtype="float16", head_dim=64, q_len=q_len)
    first, *others = get_impl(name).unsupported_reasons(problem)
    assert first.startswith("device=cpu: ")
    assert all("is not installed: pip install" in reason for reason in others)


@pytest.mark.parametrize(
    ("name", "fields", "key"),
    [
        ("flashinfer_decode", {"q_len": 4}, "q_len=4"),
        ("flashinfer_prefill", {}, "q_len=1"),
        ("flashinfer_xqa", {"page_size": 5}, "page_size=5"),
        ("flashinfer_xqa", {"head_dim": 72}, "head_dim=72"),
        ("flashinfer_xqa", {"num_q_heads": 71, "num_kv_heads": 1}, "num_kv_heads=1"),
        ("flash_attn_2", {"page_size": 16}, "page_size=16"),
        ("flash_attn_3", {"head_dim": 320}, "head_dim=320"),
        ("flash_attn_3", {"q_len": 4, "kv_lens": (8, 3)}, "kv_lens=[8, 3]"),
        ("flash_attn_4", {}, "q_len=1"),
        ("flash_attn_4", {"q_len": 4, "head_dim": 320}, "head_dim=320"),
        ("xformers_splitk", {"head_dim": 96}, "head_dim=96"),
        ("xformers_splitk", {"logits_soft_cap": 3.0}, "logits_soft_cap=3.0"),
        ("cudnn_paged", {"logits_soft_cap": 3.0}, "logits_soft_cap=3.0"),
        ("cudnn_paged", {"head_dim": 320}, "head_dim=320"),
        ("jax_pallas", {"head_dim": 80}, "head_dim=80"),
        ("torch_varlen", {"logits_soft_cap": 2.0}, "logits_soft_cap=2.0"),
        ("torch_varlen", {"dtype": "float32"}, "dtype=float32"),
    ],
)
def test_what_a_library_cannot_do_is_a_reason(make_problem, name, fields, key):
    problem = make_problem(**{"dtype": "float16", "head_dim": 64} | fields)
    assert any(reason.startswith(f"{key}: ") for reason in get_impl(name).unsupported_reasons(problem))


def test_what_a_build_of_flash_attn_3_left_out_is_a_reason(make_problem, monkeypatch):
    config = types.ModuleType("flash_attn_config")
    config.__spec__ = importlib.machinery.ModuleSpec("flash_attn_config", None)
    config.CONFIG = {
        "build_flags": {
            "FLASHATTENTION_DISABLE_SOFTCAP": True,
            "FLASHATTENTION_DISABLE_PAGEDKV": False,
            "FLASHATTENTION_DISABLE_LOCAL": True,
        }
    }
    monkeypatch.setitem(sys.modules, "flash_attn_config", config)
    options = {"dtype": "float16", "kv_len": 40, "window": 9, "logits_soft_cap": 3.0, "page_size": 16}
    reasons = get_impl("flash_attn_3").unsupported_reasons(make_problem(**options))
    left_out = [reason.split(": ")[0] for reason in reasons if "FLASHATTENTION_DISABLE_" in reason]
    assert left_out == ["logits_soft_cap=3.0", "window=9"]


@pytest.mark.usefixtures("_libraries")
def test_pytorch_2_11_has_neither_groups_nor_pages_for_varlen(make_problem, monkeypatch):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", stand_ins.varlen_of_2_11)
    impl = get_impl("torch_varlen")
    grouped = make_problem(dtype="float16", kv_len=40, page_size=256, device="cuda")
    keys = [reason.split(": ")[0] for reason in impl.unsupported_reasons(grouped)]
    assert keys[-2:] == [f"num_kv_heads={grouped.num_kv_heads}", "page_size=256"]
    problem = make_problem(kv_len=41, kv_lens=(41, 9), num_q_heads=2, num_kv_heads=2)
    inputs = make_inputs(problem, 0)
    assert max_error(impl.prepare(problem, inputs)(), reference_attention(problem, inputs)) < 1e-5


@pytest.mark.usefixtures("_libraries")
def test_the_output_of_jax_comes_back_in_the_dtype_of_the_queries(make_problem):
    problem = make_problem(dtype="bfloat16", kv_len=40)
    prepared = get_impl("jax_pallas").prepare(problem, make_inputs(problem, 0))
    assert output_mismatch(problem, prepared()) is None


def test_asking_what_is_supported_imports_no_library_and_no_compiler():
    code = (
        "import sys; from gqabench.attention_impls import AttentionProblem, get_impl;"
        "from gqabench.attention_impls.registry import BUILT_IN_IMPLS;"
        "problems = [AttentionProblem(1, q_len, 8, 2, 1, 64, 'bfloat16', 'cpu') for q_len in (1, 8)];"
        "[get_impl(name).unsupported_reasons(problem) for name in BUILT_IN_IMPLS for problem in problems];"
        "heavy = {'torch._dynamo', 'triton', 'transformers', 'onnx', 'onnxruntime', 'flashinfer',"
        "  'flash_attn', 'xformers', 'jax'};"
        "sys.exit(f'imported {found}' if (found := heavy & sys.modules.keys()) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
