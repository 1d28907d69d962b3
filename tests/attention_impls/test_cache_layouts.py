"""Pages, ring buffers and quantised caches: what they hold, what they cost, and how they are judged."""

from dataclasses import replace
from functools import lru_cache

import pytest
import torch

from gqabench.attention_impls import AttentionInputs, AttentionProblem, Copying, get_impl
from gqabench.attention_impls.cache_layouts.sliding_window import _in_slots
from gqabench.attention_impls.correctness.error_budget import error_budget
from gqabench.attention_impls.correctness.reference import quantisation_error, reference_attention
from gqabench.attention_impls.cost import kv_cache_bytes
from gqabench.attention_impls.inputs import make_inputs
from gqabench.attention_impls.parts.caches.contiguous import ContiguousCache
from gqabench.attention_impls.parts.caches.paged import PagedCache, shuffled_page_table
from gqabench.attention_impls.parts.caches.quantisation import quantise
from gqabench.attention_impls.problem import KV_DTYPE_ITEMSIZES
from gqabench.attention_impls.registry import BUILT_IN_IMPLS

PAGED = ["paged_gather", "paged_grouped"]
KV_DTYPES = [None, *KV_DTYPE_ITEMSIZES]


def test_every_page_is_used_once_in_an_order_that_is_no_order():
    table = shuffled_page_table([9, 33, 1], page_size=4, kv_len=40)
    assert table.dtype == torch.int32
    assert table.shape == (3, 10)
    used = [row[:count].tolist() for row, count in zip(table, (3, 9, 1), strict=True)]
    assert sorted(page for pages in used for page in pages) == list(range(13))
    assert used[1] != sorted(used[1])
    assert all(not row[count:].any() for row, count in zip(table, (3, 9, 1), strict=True))
    assert torch.equal(table, shuffled_page_table([9, 33, 1], page_size=4, kv_len=40))


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_a_token_stands_where_the_page_table_says(make_problem, kv_dtype):
    problem = make_problem(kv_len=11, kv_lens=(11, 6), page_size=4, kv_dtype=kv_dtype, dtype="bfloat16")
    inputs = make_inputs(problem, 0)
    cache = PagedCache.of(problem, inputs)
    pool = cache.v if kv_dtype is None else cache.v.dequantise(torch.bfloat16)
    held = inputs.v if kv_dtype is None else quantise(inputs.v, kv_dtype).dequantise(torch.bfloat16)
    assert pool.shape == (3 + 2, 4, 2, 16)
    for sequence, length in enumerate((11, 6)):
        for token in range(length):
            page = cache.page_table[sequence, token // 4]
            assert torch.equal(pool[page, token % 4], held[sequence, :, token])


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("keys", [slice(None), slice(4, 9), slice(8, 11), slice(0, 4)])
def test_what_is_read_is_what_was_taken_in(make_problem, kv_dtype, keys):
    problem = make_problem(kv_len=11, page_size=4, kv_dtype=kv_dtype)
    inputs = make_inputs(problem, 0)
    contiguous, paged = (layout.of(problem, inputs).read(keys) for layout in (ContiguousCache, PagedCache))
    for kv, read, gathered in zip((inputs.k, inputs.v), contiguous, paged, strict=True):
        held = kv if kv_dtype is None else quantise(kv, kv_dtype).dequantise(torch.float32)
        assert torch.equal(read, held[:, :, keys])
        assert torch.equal(gathered, held[:, :, keys])


@pytest.mark.parametrize("name", PAGED)
@pytest.mark.parametrize(
    ("fields", "num_pages", "page_size"),
    [
        pytest.param({"kv_len": 32}, 2 * 2, 16, id="full"),
        pytest.param({"kv_len": 33}, 2 * 3, 16, id="one token more takes a page each"),
        pytest.param({"kv_len": 33, "kv_lens": (33, 5)}, 3 + 1, 16, id="ragged"),
        pytest.param({"kv_len": 33, "page_size": 1}, 2 * 33, 1, id="no padding"),
        pytest.param({"kv_len": 33, "page_size": 64}, 2, 64, id="mostly padding"),
    ],
)
def test_a_paged_cache_holds_whole_pages(make_problem, name, fields, num_pages, page_size):
    """2 heads of width 16 for K and for V: 64 elements a token, 4 scales of 4 bytes."""
    tokens = num_pages * page_size
    for kv_dtype, token_bytes in ((None, 64 * 4), ("int8", 64 + 16), ("float8_e4m3", 64 + 16)):
        problem = make_problem(**fields, kv_dtype=kv_dtype)
        prepared = get_impl(name).prepare(problem, make_inputs(problem, 0))
        assert prepared.kv_cache_bytes == tokens * token_bytes
        assert prepared.kv_cache_bytes >= kv_cache_bytes(problem)


@pytest.mark.parametrize("name", ["repeat_kv", "grouped_matmul", "blockwise", "sdpa", "folded_sdpa"])
@pytest.mark.parametrize("kv_dtype", KV_DTYPE_ITEMSIZES)
def test_a_quantised_cache_holds_what_the_formula_says(make_problem, name, kv_dtype):
    problem = make_problem(kv_len=100, kv_dtype=kv_dtype, dtype="bfloat16")
    prepared = get_impl(name).prepare(problem, make_inputs(problem, 0))
    assert prepared.kv_cache_bytes == kv_cache_bytes(problem) == 2 * 100 * 2 * 2 * (16 + 4)


@pytest.mark.parametrize(("window", "num_slots"), [(5, 5), (1, 1), (100, 12)])
def test_a_ring_buffer_holds_the_window_and_not_the_context(make_problem, window, num_slots):
    problem = make_problem(kv_len=12, window=window)
    inputs = make_inputs(problem, 0)
    assert get_impl("sliding_window").prepare(problem, inputs).kv_cache_bytes == 2 * num_slots * 64 * 4
    quantised = replace(problem, kv_dtype="int8")
    assert get_impl("sliding_window").prepare(quantised, inputs).kv_cache_bytes == 2 * num_slots * (64 + 16)


def test_a_token_stands_in_its_slot_of_the_ring_until_it_is_overwritten():
    kv = torch.arange(2 * 7).float().view(2, 1, 7, 1)
    slots = _in_slots(kv, lengths=[7, 2], num_slots=3)
    assert slots[:, 0, :, 0].tolist() == [[6, 4, 5], [7, 8, 0]]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"window": None}, "window=null: "),
        ({"window": 3, "q_len": 2}, "q_len=2: "),
        ({"window": 3, "page_size": 4}, "page_size=4: "),
    ],
)
def test_what_a_ring_buffer_cannot_serve(make_problem, fields, reason):
    (only,) = get_impl("sliding_window").unsupported_reasons(make_problem(**fields))
    assert only.startswith(reason)


LAYOUTS = {
    "plain": {},
    "int8": {"kv_dtype": "int8"},
    "pages": {"page_size": 16},
    "int8 pages": {"page_size": 16, "kv_dtype": "int8"},
}


def long_problem(layout: str) -> AttentionProblem:
    """Of 8192 tokens: a copy of K and V is 8 MiB, and what is done in tiles stays far below."""
    fields = {"batch_size": 1, "q_len": 1, "kv_len": 8192, "num_q_heads": 16, "num_kv_heads": 2}
    fields |= {"head_dim": 64, "window": 8192, "dtype": "float32", "device": "cpu"}
    return AttentionProblem(**fields | LAYOUTS[layout])


def eager_impls_of(layout: str) -> list[str]:
    """What is not compiled for each problem and serves the layout here. `reference` has tiles of 64 MiB."""
    impls = {name: get_impl(name) for name in BUILT_IN_IMPLS if name != "reference"}
    problem = long_problem(layout)
    return [
        name
        for name, impl in impls.items()
        if not impl.compiles_each_problem and not impl.unsupported_reasons(problem)
    ]


@pytest.mark.parametrize(
    ("layout", "name"), [(layout, name) for layout in LAYOUTS for name in eager_impls_of(layout)]
)
def test_a_call_copies_as_much_as_it_declares(profile_call, name, layout):
    impl, problem = get_impl(name), long_problem(layout)
    prepared = impl.prepare(problem, make_inputs(problem, 0))
    prepared()  # what the first call sets up is not in the timed ones
    copy_bytes = 2 * 8192 * 2 * 64 * 4
    peak_bytes = profile_call(prepared).peak_bytes
    declared = impl.timed_call
    parts = {declared.kv_expansion, declared.layout_conversion}
    if problem.kv_dtype is not None:
        parts.add(declared.dequantisation)
    if Copying.WHOLE in parts:
        num_copies = problem.group_size if declared.kv_expansion == Copying.WHOLE else 1
        assert peak_bytes >= num_copies * copy_bytes
    elif Copying.UNKNOWN not in parts:
        assert peak_bytes < copy_bytes / 2


def test_what_is_declared_is_tested_of_each_that_runs_anywhere():
    expected = {"repeat_kv", "repeat_kv_sdpa", "grouped_matmul", "blockwise", "folded_sdpa", "sdpa"}
    assert expected <= set(eager_impls_of("plain"))
    assert expected - {"sdpa"} <= set(eager_impls_of("int8"))
    assert set(PAGED) <= set(eager_impls_of("pages")) & set(eager_impls_of("int8 pages"))


@pytest.mark.parametrize("kv_dtype", KV_DTYPE_ITEMSIZES)
def test_the_reference_reads_the_quantised_cache(make_problem, kv_dtype):
    problem = make_problem(q_len=3, kv_len=20, window=9, kv_dtype=kv_dtype)
    inputs = make_inputs(problem, 0)
    dequantised = (quantise(x, kv_dtype).dequantise(torch.float32) for x in (inputs.k, inputs.v))
    held = AttentionInputs(inputs.q, *dequantised)
    plain = replace(problem, kv_dtype=None)
    reference = reference_attention(problem, inputs)
    assert torch.equal(reference, reference_attention(plain, held))
    difference = float((reference - reference_attention(plain, inputs)).abs().max())
    assert quantisation_error(problem, inputs, reference) == difference > 1e-3
    rows = torch.tensor([0, 2])
    of_rows = quantisation_error(problem, inputs, reference[:, :, rows], rows)
    assert 0 < of_rows <= difference


def test_what_was_quantised_before_has_no_error_of_quantising(make_problem):
    problem = make_problem(kv_len=20, kv_dtype="int8")
    inputs = make_inputs(problem, 0)
    once = (quantise(x, "int8").dequantise(torch.float32) for x in (inputs.k, inputs.v))
    held = AttentionInputs(inputs.q, *once)
    assert quantisation_error(problem, held, reference_attention(problem, held)) < 1e-6


@pytest.mark.parametrize(
    ("kv_dtype", "dtype"), [("int8", "float32"), ("float8_e4m3", "float32"), ("float8_e4m3", "float16")]
)
def test_an_unquantised_cache_does_not_pass_for_a_quantised_one(make_problem, kv_dtype, dtype):
    problem = make_problem(kv_len=200, head_dim=64, kv_dtype=kv_dtype, dtype=dtype)
    inputs = make_inputs(problem, 0)
    reference = reference_attention(problem, inputs)
    budget = error_budget(problem, inputs, reference)
    unquantised = get_impl("grouped_matmul").prepare(replace(problem, kv_dtype=None), inputs)()
    assert budget.excess(unquantised, reference).error_ratio > 2
    assert budget.excess(get_impl("grouped_matmul").prepare(problem, inputs)(), reference).error_ratio < 0.7


@lru_cache(maxsize=1)
def solved(problem: AttentionProblem) -> tuple:
    """Solve a problem once for the tests that follow each other with it."""
    inputs = make_inputs(problem, 1)
    reference = reference_attention(problem, inputs)
    return inputs, reference, error_budget(problem, inputs, reference)


@pytest.mark.parametrize("name", ["grouped_matmul", "blockwise", "paged_grouped"])
@pytest.mark.parametrize("kv_dtype", KV_DTYPE_ITEMSIZES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_long_quantised_decode_is_within_its_budget(make_problem, name, kv_dtype, dtype):
    problem = make_problem(
        batch_size=1, kv_len=5000, num_q_heads=8, head_dim=128, kv_dtype=kv_dtype, dtype=dtype
    )
    inputs, reference, budget = solved(problem)
    assert budget.excess(get_impl(name).prepare(problem, inputs)(), reference).error_ratio < 0.7
    without_newest = replace(problem, kv_len=4999)
    shorter = AttentionInputs(inputs.q, inputs.k[:, :, :-1], inputs.v[:, :, :-1])
    wrong = get_impl(name).prepare(without_newest, shorter)()
    assert budget.excess(wrong, reference).error_ratio > 1
