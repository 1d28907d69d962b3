"""Bytes and operations, by hand and against the mask."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gqabench.attention_impls import AttentionProblem
from gqabench.attention_impls.cost import (
    kv_cache_bytes,
    kv_cache_bytes_per_token,
    layer_bytes,
    layer_flops,
    model_bytes,
    model_flops,
    projection_parameters,
    visible_keys,
    visible_pairs,
)
from gqabench.attention_impls.parts.formulas.masks import visibility_mask


@pytest.mark.parametrize(
    ("num_layers", "num_kv_heads", "head_dim", "num_bytes"),
    [
        pytest.param(32, 32, 128, 524_288, id="Llama-2-7B"),
        pytest.param(80, 8, 128, 327_680, id="Llama-2-70B"),
        pytest.param(32, 8, 128, 131_072, id="Llama-3-8B"),
        pytest.param(32, 8, 128, 131_072, id="Mistral-7B"),
        pytest.param(28, 4, 128, 57_344, id="Qwen2.5-7B"),
        pytest.param(32, 1, 64, 8_192, id="Falcon-7B"),
    ],
)
def test_cache_bytes_of_a_token_over_all_layers(make_problem, num_layers, num_kv_heads, head_dim, num_bytes):
    """Two bytes an element, as these models are served."""
    problem = make_problem(
        num_q_heads=num_kv_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, dtype="bfloat16"
    )
    assert num_layers * kv_cache_bytes_per_token(problem) == num_bytes


def test_cache_bytes_count_key_value_heads_and_existing_tokens(make_problem):
    problem = make_problem(kv_len=10, num_q_heads=8, num_kv_heads=2, head_dim=16)
    assert kv_cache_bytes(problem) == 2 * (2 * 10 * 2 * 16) * 4
    assert kv_cache_bytes(dataclasses.replace(problem, kv_lens=(10, 3))) == 2 * (13 * 2 * 16) * 4
    assert kv_cache_bytes(dataclasses.replace(problem, num_q_heads=2)) == kv_cache_bytes(problem)
    assert kv_cache_bytes(dataclasses.replace(problem, window=3)) == kv_cache_bytes(problem)


@pytest.mark.parametrize("kv_dtype", ["int8", "float8_e4m3"])
def test_a_quantised_cache_has_one_scale_per_token_head_and_tensor(make_problem, kv_dtype):
    problem = make_problem(num_kv_heads=2, head_dim=16, kv_dtype=kv_dtype)
    assert kv_cache_bytes_per_token(problem) == 2 * 2 * (16 * 1 + 4)


@pytest.mark.parametrize(
    ("fields", "pairs", "keys"),
    [
        pytest.param({"q_len": 1, "kv_len": 7}, 7, 7, id="decode"),
        pytest.param({"q_len": 4, "kv_len": 4}, 10, 4, id="prefill: 1 + 2 + 3 + 4"),
        pytest.param({"q_len": 3, "kv_len": 7}, 5 + 6 + 7, 7, id="extend"),
        pytest.param({"q_len": 3, "kv_len": 7, "causal": False}, 21, 7, id="not causal"),
        pytest.param({"q_len": 3, "kv_len": 7, "window": 2}, 6, 4, id="window"),
        pytest.param({"q_len": 4, "kv_len": 4, "window": 2}, 1 + 2 + 2 + 2, 4, id="window at the start"),
        pytest.param({"q_len": 1, "kv_len": 7, "window": 7}, 7, 7, id="window of all keys"),
        pytest.param({"q_len": 3, "kv_len": 7, "kv_lens": (2,)}, 0 + 1 + 2, 2, id="fewer keys than queries"),
    ],
)
def test_visible_pairs_and_keys_by_hand(make_problem, fields, pairs, keys):
    problem = make_problem(batch_size=1, **fields)
    assert visible_pairs(problem) == pairs
    assert visible_keys(problem) == keys


@given(problem=st.from_type(AttentionProblem))
def test_visible_pairs_and_keys_are_those_of_the_mask(problem):
    mask = visibility_mask(problem)
    if mask is None:
        mask = torch.ones(1, 1, problem.q_len, problem.kv_len, dtype=torch.bool)
    mask = mask.expand(problem.batch_size, 1, -1, -1)
    assert visible_pairs(problem) == int(mask.sum())
    assert visible_keys(problem) == int(mask.any(dim=2).sum())


def test_model_cost_of_a_decode_by_hand(make_problem):
    problem = make_problem(kv_len=5, num_q_heads=4, num_kv_heads=2, head_dim=8, dtype="float16")
    assert model_flops(problem) == 4 * (2 * 5) * 4 * 8  # two products, two operations each
    assert model_bytes(problem) == 2 * 2 * (2 * 5 * 2 * 8) + 2 * 2 * (2 * 4 * 8)  # K and V, q and output


def test_a_group_shares_its_bytes_but_not_its_operations(make_problem):
    multi_head = make_problem(kv_len=4096, num_q_heads=32, num_kv_heads=32, head_dim=128, dtype="bfloat16")
    grouped = dataclasses.replace(multi_head, num_kv_heads=8)
    assert model_flops(grouped) == model_flops(multi_head)
    assert model_bytes(grouped) < model_bytes(multi_head) / 3.9


def test_layer_cost_by_hand(make_problem):
    """Hidden size 8, two query heads and one key/value head of 4: W_q and W_o 64 weights, W_k and W_v 32."""
    problem = make_problem(batch_size=1, kv_len=3, num_q_heads=2, num_kv_heads=1, head_dim=4)
    assert projection_parameters(problem) == 64 + 64 + 32 + 32
    assert layer_flops(problem) == 2 * 192 + 4 * 3 * 2 * 4
    cache, hidden_states = 3 * 2 * 4 * 4, 2 * 8 * 4
    assert layer_bytes(problem) == 192 * 4 + hidden_states + cache


def test_a_layer_moves_the_visible_tokens_of_every_sequence(make_problem):
    problem = make_problem(batch_size=3, q_len=2, kv_len=50)
    windowed = dataclasses.replace(problem, window=4)
    token = kv_cache_bytes_per_token(problem)
    assert layer_bytes(problem) - layer_bytes(windowed) == 3 * (50 - 5) * token


def test_layer_cost_of_another_hidden_size(make_problem):
    problem = make_problem(q_len=2, num_q_heads=4, num_kv_heads=2, head_dim=16)
    assert projection_parameters(problem, 10) == 10 * (64 + 64 + 32 + 32)
    assert layer_flops(problem, 10) - model_flops(problem) == 2 * 4 * 1920
    assert layer_bytes(problem, 10) - layer_bytes(problem, 9) == (192 + 2 * 4) * 4
    assert layer_bytes(problem, 64) == layer_bytes(problem)
