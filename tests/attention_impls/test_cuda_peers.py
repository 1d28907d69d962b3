"""How problems are put to libraries for CUDA: stand-ins compute what the real functions document.

They run on the CPU, so what is tested is the mapping of layouts, scales, windows, lengths and pages. The
kernels themselves are tested on a GPU, with all other implementations.
"""

import subprocess
import sys
import types

import pytest
import torch

from attention_impls import get_impl
from attention_impls.inputs import make_inputs, make_queries
from attention_impls.reference import reference_attention
from attention_impls.truth.error_budget import max_error

PEERS = [
    "torch_varlen", "flash_attn_2", "flash_attn_3", "flash_attn_4", "flashinfer_decode", "flashinfer_prefill",
    "flashinfer_xqa", "xformers_splitk", "cudnn_paged", "jax_pallas",
]  # fmt: skip


def dense(q, k, v, length, scale, causal, left, soft_cap):
    """One sequence, `[Q, H, D]` over `[K, G, D]`: `left` keys before the query's own, -1 for all."""
    k, v = (x[:length].repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    logits = torch.einsum("qhd,khd->hqk", q, k) * scale
    logits = soft_cap * torch.tanh(logits / soft_cap) if soft_cap else logits
    position, key = torch.arange(length - len(q), length)[:, None], torch.arange(length)
    hidden = (key > position) & causal | ((key < position - left) & (left >= 0))
    return torch.einsum("hqk,khd->qhd", logits.masked_fill(hidden, -torch.inf).softmax(-1), v)


def paged(pool, pages):
    return pool[pages.long()].flatten(0, 1)


def with_kvcache(
    q, k_cache, v_cache, *, cache_seqlens, softmax_scale, causal, window_size, softcap, num_splits,
    page_table=None, block_table=None,
):  # fmt: skip
    """`flash_attn_with_kvcache` as FlashAttention 2 and 3 document it."""
    assert num_splits == 0
    table = page_table if page_table is not None else block_table
    outputs = []
    for b, length in enumerate(cache_seqlens.tolist()):
        k, v = (cache[b] if table is None else paged(cache, table[b]) for cache in (k_cache, v_cache))
        left, right = window_size
        assert right == (0 if causal else -1)
        outputs.append(dense(q[b], k, v, length, softmax_scale, causal, left, softcap))
    return torch.stack(outputs)


def varlen(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa=False, seqused_k,
    block_table=None,
):  # fmt: skip
    """`varlen_attn` of PyTorch 2.13."""
    left, right = window_size
    assert enable_gqa == (query.shape[1] != key.shape[-2])
    outputs = []
    for b, length in enumerate(seqused_k.tolist()):
        if block_table is None:
            k, v = (x[cu_seq_k[b] : cu_seq_k[b + 1]] for x in (key, value))
        else:
            k, v = (paged(x, block_table[b]) for x in (key, value))
        q = query[cu_seq_q[b] : cu_seq_q[b + 1]]
        outputs.append(dense(q, k, v, length, scale, right == 0, left, None))
    return torch.cat(outputs)


def varlen_of_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size):
    """`varlen_attn` of PyTorch 2.11: each query head has its keys, and every cached token counts."""
    return varlen(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k,
        scale=scale, window_size=window_size, seqused_k=cu_seq_k.diff(),
    )  # fmt: skip


class Wrapper:
    """Both of FlashInfer's wrappers over pages, by what `plan` and `run` document."""

    def __init__(self, workspace, layout, use_tensor_cores=None, backend="auto"):
        assert (layout, workspace.dtype) == ("NHD", torch.uint8)

    def run(self, q, pools):
        outputs = []
        for b in range(len(self.indptr) - 1):
            pages = self.indices[self.indptr[b] : self.indptr[b + 1]]
            length = (len(pages) - 1) * self.page_size + int(self.last[b])
            rows = q[b : b + 1] if self.starts is None else q[self.starts[b] : self.starts[b + 1]]
            k, v = (paged(pool, pages) for pool in pools)
            options = self.options
            outputs.append(
                dense(
                    rows, k, v, length, options["sm_scale"], options.get("causal", True),
                    options["window_left"], options["logits_soft_cap"],
                )
            )  # fmt: skip
        return torch.cat(outputs)


class Decode(Wrapper):
    def plan(self, indptr, indices, last, num_q_heads, num_kv_heads, head_dim, page_size, **options):
        assert options["q_data_type"] == options["kv_data_type"]
        self.starts, self.indptr, self.indices, self.last = None, indptr, indices, last
        self.page_size, self.options = page_size, options


class Prefill(Wrapper):
    def plan(self, starts, indptr, indices, last, num_q_heads, num_kv_heads, head_dim, page_size, **options):
        Decode.plan(self, indptr, indices, last, num_q_heads, num_kv_heads, head_dim, page_size, **options)
        self.starts = starts


def xqa(query, kv_cache, workspace, tables, lengths, max_len, *, bmm1_scale, window_left):
    return torch.cat(
        [
            dense(
                query[b : b + 1],
                *(paged(x, tables[b]) for x in kv_cache),
                n,
                bmm1_scale,
                True,
                window_left,
                0,
            )
            for b, n in enumerate(lengths.tolist())
        ]
    )


@pytest.fixture
def _libraries(monkeypatch):
    flashinfer = types.ModuleType("flashinfer")
    flashinfer.BatchDecodeWithPagedKVCacheWrapper = Decode
    flashinfer.BatchPrefillWithPagedKVCacheWrapper = Prefill
    decode = types.ModuleType("flashinfer.decode")
    decode.xqa_batch_decode_with_kv_cache = xqa
    monkeypatch.setitem(sys.modules, "flashinfer", flashinfer)
    monkeypatch.setitem(sys.modules, "flashinfer.decode", decode)
    for name in ("flash_attn", "flash_attn_interface"):
        module = types.ModuleType(name)
        module.flash_attn_with_kvcache = with_kvcache
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen)


DECODE = {
    "ragged": {"kv_len": 41, "kv_lens": (41, 9), "num_q_heads": 6},
    "window, scale": {"kv_len": 41, "window": 7, "softmax_scale": 0.3},
    "window of one": {"kv_len": 9, "window": 1},
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
    "flashinfer_prefill": MANY,
    "flashinfer_xqa": DECODE | PAGED,
}


@pytest.mark.usefixtures("_libraries")
@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in MAPPED.items() for case in cases])
def test_a_problem_means_the_same_to_the_library(make_problem, name, case):
    problem = make_problem(**MAPPED[name][case])
    inputs = make_inputs(problem, 0)
    prepared = get_impl(name).prepare(problem, inputs)
    for queries in make_queries(problem, 0, 2):
        inputs.q.copy_(queries)
        assert max_error(prepared(), reference_attention(problem, inputs)) < 1e-5
    assert prepared.kv_cache_bytes >= 2 * 2 * 16 * 4 * sum(problem.kv_lens or (problem.kv_len,) * 2)
    assert (prepared.plan_ms is not None) == name.startswith(("flashinfer_decode", "flashinfer_prefill"))


@pytest.mark.parametrize("fields", [{"q_len": 37, "kv_len": 37}, {"kv_len": 41, "window": 7}])
def test_the_varlen_attn_of_pytorch_2_11_serves_multi_head_attention(make_problem, monkeypatch, fields):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_of_2_11)
    problem = make_problem(num_q_heads=4, num_kv_heads=4, **fields)
    inputs = make_inputs(problem, 0)
    output = get_impl("torch_varlen").prepare(problem, inputs)()
    assert max_error(output, reference_attention(problem, inputs)) < 1e-5


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"num_q_heads": 4, "num_kv_heads": 2}, "num_kv_heads=2"),
        ({"kv_lens": (8, 3)}, "kv_lens=[8, 3]"),
        ({"page_size": 256}, "page_size=256"),
        ({"kv_lens": (8, 8)}, None),
    ],
)
def test_what_the_varlen_attn_of_pytorch_2_11_lacks_is_a_reason(make_problem, monkeypatch, fields, key):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_of_2_11)
    problem = make_problem(**{"dtype": "float16", "num_q_heads": 4, "num_kv_heads": 4} | fields)
    _, *reasons = get_impl("torch_varlen").unsupported_reasons(problem)  # the first is that this is a CPU
    assert [reason.partition(": ")[0] for reason in reasons] == ([] if key is None else [key])


@pytest.mark.parametrize("name", PEERS)
def test_on_a_cpu_the_reason_is_that(make_problem, name):
    q_len = 4 if name in ("flash_attn_4", "flashinfer_prefill") else 1
    problem = make_problem(dtype="float16", head_dim=64, q_len=q_len, num_kv_heads=4)
    first, *others = get_impl(name).unsupported_reasons(problem)
    assert first.startswith("device=cpu: ")
    assert all("is not installed: pip install" in reason for reason in others)


@pytest.mark.parametrize(
    ("name", "fields", "key"),
    [
        ("flashinfer_decode", {"q_len": 4}, "q_len=4"),
        ("flashinfer_prefill", {}, "q_len=1"),
        ("flashinfer_xqa", {"page_size": 5}, "page_size=5"),
        ("flash_attn_2", {"page_size": 16}, "page_size=16"),
        ("flash_attn_3", {"head_dim": 320}, "head_dim=320"),
        ("flash_attn_3", {"q_len": 4, "kv_lens": (8, 3)}, "kv_lens=[8, 3]"),
        ("flash_attn_4", {}, "q_len=1"),
        ("xformers_splitk", {"window": 3}, "window=3"),
        ("cudnn_paged", {"window": 3}, "window=3"),
        ("jax_pallas", {"head_dim": 80}, "head_dim=80"),
        ("torch_varlen", {"logits_soft_cap": 2.0}, "logits_soft_cap=2.0"),
        ("torch_varlen", {"dtype": "float32"}, "dtype=float32"),
    ],
)
def test_what_a_library_cannot_do_is_a_reason(make_problem, name, fields, key):
    problem = make_problem(**{"dtype": "float16", "head_dim": 64} | fields)
    assert any(reason.startswith(f"{key}: ") for reason in get_impl(name).unsupported_reasons(problem))


def test_listing_imports_none_of_the_libraries():
    code = (
        "import sys; from harness.cli.listing import main; main(['impls']);"
        "heavy = {'transformers', 'onnx', 'onnxruntime', 'flashinfer', 'flash_attn', 'xformers', 'jax'};"
        "sys.exit(f'imported {found}' if (found := heavy & sys.modules.keys()) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
