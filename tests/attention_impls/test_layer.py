"""The attention layer: cached steps against one pass, any implementation inside, and its own reference."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gqabench.attention_impls import AttentionImpl, AttentionInputs, PreparedAttention, get_impl
from gqabench.attention_impls.models.layer import (
    GroupedQueryAttention,
    KvCache,
    layer_error_budget,
    layer_reference,
    layer_unsupported_reasons,
    make_hidden_states,
    make_layer_inputs,
    prepare_layer,
)
from gqabench.attention_impls.models.layer.inputs import make_layer_weights
from gqabench.attention_impls.models.layer.rope import rope_tables, rotate

IMPLS = [
    "reference",
    "repeat_kv",
    "repeat_kv_sdpa",
    "grouped_matmul",
    "blockwise",
    "paged_grouped",
    "sdpa",
    "sdpa_flash",
    "sdpa_math",
]


class Transposing(AttentionImpl):
    """An implementation that keeps the cache in a layout of its own, `[batch, kv_len, heads, head_dim]`."""

    name = "transposing"
    reads_cache_in_place = False

    def __init__(self):
        self.num_prepared = 0

    def unsupported_reasons(self, problem):
        return []

    def prepare(self, problem, inputs):
        self.num_prepared += 1
        k, v = (x.transpose(1, 2).contiguous() for x in (inputs.k, inputs.v))
        own = AttentionInputs(inputs.q, k.transpose(1, 2), v.transpose(1, 2))
        return PreparedAttention(get_impl("sdpa").prepare(problem, own).run, k.nbytes + v.nbytes)


@pytest.fixture
def make_layer(make_problem):
    def make(impl="grouped_matmul", hidden_size=24, **fields):
        torch.manual_seed(0)
        return GroupedQueryAttention(make_problem(**{"kv_len": 12} | fields), impl, hidden_size)

    return make


def test_projections_are_as_wide_as_their_heads(make_layer):
    layer = make_layer(num_q_heads=6, num_kv_heads=2, head_dim=16)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "w_q.weight": (96, 24), "w_k.weight": (32, 24), "w_v.weight": (32, 24), "w_o.weight": (24, 96),
    }  # fmt: skip


def test_hidden_size_defaults_to_all_query_heads(make_layer):
    assert make_layer(hidden_size=None, num_q_heads=4, head_dim=16).hidden_size == 64


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("window", [None, 3])
def test_prefill_then_decode_is_one_prefill(make_layer, impl, window):
    layer = make_layer(impl, window=window)
    hidden = torch.randn(2, 12, 24)
    whole = layer(hidden)
    layer.reset()
    steps = [layer(part) for part in hidden.split([5, 1, 1, 3, 1, 1], dim=1)]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(make_layer, dtype):
    layer = make_layer("sdpa", dtype=dtype)
    hidden = torch.randn(2, 12, 24).to(getattr(torch, dtype))
    whole = layer(hidden)
    layer.reset()
    steps = torch.cat([layer(part) for part in hidden.split([11, 1], dim=1)], dim=1)
    assert steps.dtype == whole.dtype == hidden.dtype
    torch.testing.assert_close(steps, whole, rtol=0.02, atol=0.02)


def test_all_implementations_agree(make_layer):
    hidden = torch.randn(2, 12, 24)
    expected = make_layer("reference", num_q_heads=6, logits_soft_cap=None)(hidden)
    for impl in IMPLS:
        torch.testing.assert_close(make_layer(impl, num_q_heads=6)(hidden), expected, rtol=1e-4, atol=1e-5)


def test_an_output_depends_on_no_later_token(make_layer):
    hidden = torch.randn(2, 12, 24)
    other = hidden.clone()
    other[:, 7:] = torch.randn(2, 5, 24)
    first, second = make_layer()(hidden), make_layer()(other)
    torch.testing.assert_close(first[:, :7], second[:, :7])
    assert not torch.allclose(first[:, 7:], second[:, 7:], atol=0.01)


def test_fewer_sequences_than_the_cache_holds(make_layer):
    hidden = torch.randn(3, 6, 24)
    expected = make_layer(batch_size=3)(hidden)
    torch.testing.assert_close(make_layer(batch_size=5)(hidden), expected)


def test_an_implementation_that_converts_the_cache_is_prepared_on_each_call(make_layer):
    impl = Transposing()
    layer = make_layer(impl)
    hidden = torch.randn(2, 9, 24)
    layer(hidden[:, :8])
    for num_calls in range(2, 5):
        layer.rewind(8)
        torch.testing.assert_close(layer(hidden[:, 8:]), make_layer()(hidden)[:, 8:])
        assert impl.num_prepared == num_calls
    assert layer.kv_cache_bytes == layer.cache.nbytes + 2 * (2 * 2 * 9 * 16) * 4


@pytest.mark.parametrize("shape", [(2, 5, 23), (2, 24), (24,)])
def test_another_hidden_size_is_told(make_layer, shape):
    with pytest.raises(ValueError, match=r"hidden of shape \[.*\]: must be \[batch_size, num_tokens, 24\]"):
        make_layer()(torch.zeros(shape))


def test_a_full_cache_is_told_and_left_as_it_was(make_layer):
    layer = make_layer()
    hidden = torch.randn(2, 12, 24)
    whole = make_layer()(hidden)
    layer(hidden[:, :11])
    with pytest.raises(
        ValueError, match="kv_len=13: must not exceed max_kv_len=12; the cache holds 11 tokens"
    ):
        layer(torch.randn(2, 2, 24))
    torch.testing.assert_close(layer(hidden[:, 11:]), whole[:, 11:])


def test_too_many_sequences_are_told(make_layer):
    with pytest.raises(ValueError, match="batch_size=3: must not exceed max_batch_size=2"):
        make_layer()(torch.zeros(3, 1, 24))


def test_an_implementation_that_cannot_serve_is_told(make_layer):
    with pytest.raises(ValueError, match=r"impl=sdpa: .*logits_soft_cap="):
        make_layer("sdpa", logits_soft_cap=5.0)


@pytest.mark.parametrize(("key", "value"), [("kv_dtype", "int8"), ("page_size", 4)])
def test_the_layers_own_cache_has_no_other_layout(make_layer, make_problem, key, value):
    with pytest.raises(ValueError, match=rf"^{key}={value}: the layer's own cache"):
        make_layer("paged_gather", **{key: value})
    (reason,) = layer_unsupported_reasons(get_impl("paged_gather"), make_problem(**{key: value}))
    assert reason.startswith(f"{key}={value}: ")


def test_a_batch_that_changes_while_tokens_are_held_is_told(make_layer):
    layer = make_layer(batch_size=3)
    hidden = torch.randn(3, 4, 24)
    layer(hidden[:2, :3])
    for batch_size in (1, 3):
        with pytest.raises(
            ValueError, match=f"batch_size={batch_size}: must be 2, of which 3 tokens are held"
        ):
            layer(hidden[:batch_size, 3:])
    layer.reset()
    assert layer(hidden).shape == hidden.shape


class Fragile(Transposing):
    """Serves one token at a time, and breaks while it is prepared for the fifth."""

    name = "fragile"

    def unsupported_reasons(self, problem):
        return [] if problem.q_len == 1 else ["one token at a time"]

    def prepare(self, problem, inputs):
        if problem.kv_len == 5:
            raise RuntimeError("out of memory")
        return super().prepare(problem, inputs)


def test_a_call_that_fails_leaves_the_cache_as_it_was(make_layer):
    layer = make_layer(Fragile())
    hidden = torch.randn(2, 5, 24)
    for token in range(4):
        layer(hidden[:, token : token + 1])
    for wrong, error, message in (
        (hidden[:, 4:].half(), ValueError, "hidden of dtype torch.float16: must be torch.float32"),
        (hidden[:, :0], ValueError, "hidden of shape"),
        (hidden[:, :2], ValueError, "impl=fragile: .*one token at a time"),
        (hidden[:1, 4:], ValueError, "batch_size=1: must be 2"),
        (hidden[:, 4:], RuntimeError, "out of memory"),
    ):
        with pytest.raises(error, match=message):
            layer(wrong)
        assert layer.cache.kv_len == 4
    layer.impl = get_impl("sdpa")
    expected = make_layer()(hidden)
    torch.testing.assert_close(layer(hidden[:, 4:]), expected[:, 4:])


@pytest.mark.parametrize("impl", ["sdpa", "grouped_matmul"])
def test_inference_mode_may_change_between_calls(make_layer, impl):
    layer = make_layer(impl)
    hidden = torch.randn(2, 9, 24)
    expected = make_layer(impl)(hidden)[:, 8:]
    layer(hidden[:, :8])
    for is_inference in (True, False, True, True, False):
        layer.rewind(8)
        with torch.inference_mode(is_inference):
            torch.testing.assert_close(layer(hidden[:, 8:]), expected)


def test_only_weights_are_stored_but_all_moves(make_layer):
    layer = make_layer()
    assert all(name.endswith(".weight") for name in layer.state_dict())
    assert {name for name, _ in layer.named_buffers()} == {"_cos", "_sin", "cache._k", "cache._v"}
    assert layer.to("meta").cache.held(1)[0].device.type == "meta"


@pytest.mark.parametrize(
    ("fields", "key"),
    [({"kv_lens": (3, 8)}, "kv_lens"), ({"head_dim": 7}, "head_dim=7"), ({"causal": False}, "causal")],
)
def test_a_problem_that_no_layer_has_is_told(make_problem, fields, key):
    problem = make_problem(**fields)
    with pytest.raises(ValueError, match=key):
        GroupedQueryAttention(problem, "sdpa")
    assert any(key in reason for reason in layer_unsupported_reasons(get_impl("sdpa"), problem))
    with pytest.raises(ValueError, match=key):
        prepare_layer(get_impl("sdpa"), problem, make_layer_inputs(problem, 0), 0)


def test_cache_appends_rewinds_and_resets():
    cache = KvCache(2, 1, 4, 2, torch.float32, "cpu")
    assert cache.nbytes == 2 * (2 * 1 * 4 * 2) * 4
    first, second = torch.ones(2, 1, 3, 2), torch.full((2, 1, 1, 2), 5.0)
    cache.append(first, -first)
    cache.append(second, -second)
    k, v = cache.held(2)
    assert k[0, 0, :, 0].tolist() == [1, 1, 1, 5]
    assert torch.equal(v, -k)
    with pytest.raises(ValueError, match="kv_len=5: must not exceed max_kv_len=4"):
        cache.append(second, second)
    cache.rewind(2)
    assert cache.held(1)[0].shape == (1, 1, 2, 2)
    with pytest.raises(ValueError, match="kv_len=3: must be between 0 and the 2 tokens held"):
        cache.rewind(3)
    cache.reset()
    assert cache.kv_len == 0


def test_rope_by_hand():
    """Two frequencies, 1 and theta^(-1/2) = 0.1: element 0 turns with 2, and 1 with 3."""
    cos, sin = rope_tables(torch.tensor([0, 3]), 4, 100.0, torch.float64)
    x = torch.tensor([1.0, 0.0, 0.0, 2.0], dtype=torch.float64).expand(1, 1, 2, 4)
    turned = rotate(x, cos, sin)
    assert turned[0, 0, 0].tolist() == [1, 0, 0, 2]
    angle_0, angle_1 = torch.tensor(3.0, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    expected = [angle_0.cos(), -2 * angle_1.sin(), angle_0.sin(), 2 * angle_1.cos()]
    assert turned[0, 0, 1].tolist() == pytest.approx([float(x) for x in expected])


@given(offset=st.integers(0, 10**6), distance=st.integers(0, 1000))
def test_rotated_products_depend_on_the_distance_alone(offset, distance):
    q, k = torch.randn(2, 1, 1, 1, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def product(start: int) -> float:
        tables = [
            rope_tables(torch.tensor([p]), 32, 10_000.0, torch.float64) for p in (start + distance, start)
        ]
        return float((rotate(q, *tables[0]) * rotate(k, *tables[1])).sum())

    assert product(offset) == pytest.approx(product(0), abs=1e-8)


WORKLOADS = {
    "decode": {"q_len": 1, "kv_len": 100},
    "prefill": {"q_len": 40, "kv_len": 40},
    "extend with a window": {"q_len": 5, "kv_len": 60, "window": 7},
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("hidden_size", [None, 100])
def test_prepared_layers_agree_with_the_reference_on_every_call(make_problem, workload, dtype, hidden_size):
    problem = make_problem(num_q_heads=6, head_dim=32, dtype=dtype, **WORKLOADS[workload])
    inputs = make_layer_inputs(problem, 3, hidden_size)
    variants = [inputs.hidden.clone(), *make_hidden_states(problem, 3, hidden_size, 2)]
    with torch.inference_mode():
        layers = {name: prepare_layer(get_impl(name), problem, inputs, 3) for name in IMPLS}
        layers["transposing"] = prepare_layer(Transposing(), problem, inputs, 3)
        for hidden in variants:
            inputs.hidden.copy_(hidden)
            reference = layer_reference(problem, inputs, 3)
            budget = layer_error_budget(problem, inputs, 3, reference)
            for name, layer in layers.items():
                assert budget.excess(layer(), reference).error_ratio < 0.7, name
    assert layers["sdpa"].kv_cache_bytes == 2 * (2 * 2 * problem.kv_len * 32) * problem.itemsize


def test_the_layer_reference_is_the_layer_in_float64(make_problem):
    """A whole prefill with the same weights, by complex rotations and PyTorch's attention."""
    problem = make_problem(q_len=9, kv_len=9, num_q_heads=6, head_dim=8)
    inputs = make_layer_inputs(problem, 0, 20)
    w = make_layer_weights(problem, 0, 20)
    x = inputs.hidden.double()
    q, k, v = ((x @ weight.double().T).view(2, 9, -1, 8).transpose(1, 2) for weight in (w.w_q, w.w_k, w.w_v))
    positions, pairs = torch.arange(9, dtype=torch.float64), torch.arange(4, dtype=torch.float64)
    angles = torch.outer(positions, 10_000.0 ** (-pairs / 4))
    turns = torch.polar(torch.ones_like(angles), angles)
    turned = [torch.complex(y[..., :4], y[..., 4:]) * turns for y in (q, k)]
    q, k = (torch.cat([y.real, y.imag], dim=-1) for y in turned)
    attended = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    expected = attended.transpose(1, 2).flatten(2) @ w.w_o.double().T
    torch.testing.assert_close(layer_reference(problem, inputs, 0), expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_mistakes_of_a_layer_exceed_its_budget(make_problem, dtype):
    problem = make_problem(q_len=4, kv_len=64, num_q_heads=8, head_dim=32, dtype=dtype)
    inputs = make_layer_inputs(problem, 0)
    reference = layer_reference(problem, inputs, 0)
    budget = layer_error_budget(problem, inputs, 0, reference)
    no_past = dataclasses.replace(problem, kv_len=4)
    forgotten = dataclasses.replace(inputs, past_k=inputs.past_k[:, :, :0], past_v=inputs.past_v[:, :, :0])
    shuffled = dataclasses.replace(inputs, past_k=inputs.past_k.flip(2))
    mistakes = {
        "zeros": torch.zeros_like(reference),
        "no cache": layer_reference(no_past, forgotten, 0),
        "other weights": layer_reference(problem, inputs, 1),
        "past out of order": layer_reference(problem, shuffled, 0),
        "window": layer_reference(dataclasses.replace(problem, window=60), inputs, 0),
    }
    for name, wrong in mistakes.items():
        assert budget.excess(wrong, reference).error_ratio > 1, name


def test_layer_inputs_are_seeded(make_problem):
    problem = make_problem(q_len=3, kv_len=8)
    first, second = make_layer_inputs(problem, 1, 20), make_layer_inputs(problem, 1, 20)
    assert first.hidden.shape == (2, 3, 20)
    assert first.past_k.shape == first.past_v.shape == (2, 2, 5, 16)
    assert torch.equal(first.hidden, second.hidden)
    assert torch.equal(first.past_v, second.past_v)
    assert make_hidden_states(problem, 1, 20, 4).shape == (4, 2, 3, 20)
    assert float(make_layer_weights(problem, 1, 400).w_q.std()) == pytest.approx(1 / 20, rel=0.05)
