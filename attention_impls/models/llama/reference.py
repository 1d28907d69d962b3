"""The reference of a decode step of a Llama: its forward pass in float64, on the weights of a model.

Written from the architecture (Touvron et al. 2023, arXiv 2302.13971, section 2.2), not from its code: Hugging
Face computes norms and the softmax in float32 whatever the dtype, so that its `eager` in float64 is no
reference. Angles of RoPE are the model's own, in float32: they are given, as weights are.

Shape suffixes: B batch, H query heads, G key/value heads, L context tokens, N alternative new tokens at the
same position, T either, K keys (the context and one new token), D head_dim, E hidden_size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from gqabench.attention_impls.contract import AttentionInputs
from gqabench.attention_impls.correctness.error_budget import (
    ErrorBudget,
    attention_summation_error,
    max_error_budget,
    row_budget,
    row_sizes,
)
from gqabench.attention_impls.correctness.reference import reference_attention
from gqabench.attention_impls.dtypes import torch_dtype, unit_roundoff
from gqabench.attention_impls.models.layer.rope import rotate
from gqabench.attention_impls.models.llama.shape import LlamaShape
from gqabench.attention_impls.problem import AttentionProblem

_ROUNDINGS_PER_LAYER = 12
"""Tensors that textbook code stores in a layer: two normed states, q, k, v, attention, three of the MLP, two
outputs that are added to the residual, and that."""


def step_references(
    problem: AttentionProblem, model: Any, context_BL: torch.Tensor, new_NB: torch.Tensor
) -> torch.Tensor:
    """Return the logits of each of N tokens after the same context, float64 `[N, B, 1, VOCAB_SIZE]`."""
    sequences = [
        _sequence_logits(problem, model, context_L, new_N)
        for context_L, new_N in zip(context_BL, new_NB.unbind(1), strict=True)
    ]
    return torch.stack(sequences, dim=1)[:, :, None]


def step_budget(
    problem: AttentionProblem, shape: LlamaShape, eager: torch.Tensor, reference: torch.Tensor
) -> ErrorBudget:
    """Return the budget of logits, derived as in `correctness.error_budget`; a row is one token.

    `eager`: the logits of Hugging Face's textbook code in the problem's dtype, from the same context. As a
    floor for where that happens to be exact, every stored tensor of a layer adds a rounding error to the
    residual.
    """
    widths = 2 * math.sqrt(shape.hidden_size) + math.sqrt(shape.intermediate_size)
    summation = shape.num_layers * (attention_summation_error(problem, logit=1) + widths)
    roundings = math.sqrt(_ROUNDINGS_PER_LAYER * shape.num_layers + 1)
    per_rounding = unit_roundoff(torch_dtype(problem)) + widths * unit_roundoff(torch.float32)
    noise = row_sizes(reference) * roundings * per_rounding
    largest = max_error_budget(problem, eager, reference, summation)
    return ErrorBudget(largest, row_budget(eager, reference, noise))


@dataclass(frozen=True)
class _Heads:
    """One layer's projections of some tokens, rotated."""

    q: torch.Tensor
    """`[H, T, D]`"""
    k: torch.Tensor
    """`[G, T, D]`"""
    v: torch.Tensor
    """`[G, T, D]`"""


def _sequence_logits(
    problem: AttentionProblem, model: Any, context_L: torch.Tensor, new_N: torch.Tensor
) -> torch.Tensor:
    """Return the logits of one sequence, `[N, VOCAB_SIZE]`."""
    inner = model.model
    context_LE, new_NE = (_float64(inner.embed_tokens.weight[ids]) for ids in (context_L, new_N))
    context_tables = _rope_tables(model, torch.arange(len(context_L), device=context_L.device))
    new_tables = _rope_tables(model, torch.full_like(new_N, len(context_L)))
    for layer in inner.layers:
        context = _heads(problem, layer, context_LE, context_tables)
        new = _heads(problem, layer, new_NE, new_tables)
        if layer is not inner.layers[-1]:  # of the last one's context, only keys and values are read
            context_LE = _after_attention(layer, context_LE, _attend_context(problem, context))
        new_NE = _after_attention(layer, new_NE, _attend_new(problem, context, new))
    return _norm(inner.norm, new_NE) @ _float64(model.lm_head.weight).mT


def _heads(
    problem: AttentionProblem, layer: Any, hidden_TE: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]
) -> _Heads:
    normed_TE, attention = _norm(layer.input_layernorm, hidden_TE), layer.self_attn

    def project(linear: Any) -> torch.Tensor:
        projected = normed_TE @ _float64(linear.weight).mT
        return projected.view(len(hidden_TE), -1, problem.head_dim).transpose(0, 1)

    return _Heads(
        rotate(project(attention.q_proj), *tables),
        rotate(project(attention.k_proj), *tables),
        project(attention.v_proj),
    )


def _attend_context(problem: AttentionProblem, context: _Heads) -> torch.Tensor:
    """Return `[L, H * D]`: causal attention among the context's tokens."""
    length = context.q.shape[1]
    among = replace(problem, batch_size=1, q_len=length, kv_len=length)
    inputs = AttentionInputs(context.q[None], context.k[None], context.v[None])
    return reference_attention(among, inputs)[0].transpose(0, 1).flatten(1)


def _attend_new(problem: AttentionProblem, context: _Heads, new: _Heads) -> torch.Tensor:
    """Return `[N, H * D]`: each new token sees the context and itself."""

    def with_context(context_GLD: torch.Tensor, new_GND: torch.Tensor) -> torch.Tensor:
        new_NG1D = new_GND.transpose(0, 1)[:, :, None]
        return torch.cat([context_GLD.expand(len(new_NG1D), -1, -1, -1), new_NG1D], dim=2)

    inputs = AttentionInputs(
        new.q.transpose(0, 1)[:, :, None],
        with_context(context.k, new.k),
        with_context(context.v, new.v),
    )
    return reference_attention(replace(problem, batch_size=len(inputs.q)), inputs).flatten(1)


def _after_attention(layer: Any, hidden_TE: torch.Tensor, attended_TX: torch.Tensor) -> torch.Tensor:
    """Return the residual after a layer's output projection and MLP."""
    hidden_TE = hidden_TE + attended_TX @ _float64(layer.self_attn.o_proj.weight).mT
    normed_TE = _norm(layer.post_attention_layernorm, hidden_TE)
    gated = torch.nn.functional.silu(normed_TE @ _float64(layer.mlp.gate_proj.weight).mT)
    gated *= normed_TE @ _float64(layer.mlp.up_proj.weight).mT
    return hidden_TE + gated @ _float64(layer.mlp.down_proj.weight).mT


def _norm(norm: Any, hidden_TE: torch.Tensor) -> torch.Tensor:
    mean_square_T1 = hidden_TE.square().mean(-1, keepdim=True)
    scale_T1 = (mean_square_T1 + float(norm.variance_epsilon)).rsqrt()
    return hidden_TE * scale_T1 * _float64(norm.weight)


def _rope_tables(model: Any, positions_T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosine and sine `[T, D / 2]`, of the model's float32 angles."""
    rotary: Callable[..., tuple[torch.Tensor, torch.Tensor]] = model.model.rotary_emb
    example = torch.empty(0, device=positions_T.device)  # float32: its dtype is that of the tables
    cos_1TD, sin_1TD = rotary(example, positions_T[None])
    half = cos_1TD.shape[-1] // 2
    return _float64(cos_1TD[0, :, :half]), _float64(sin_1TD[0, :, :half])


def _float64(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.float64)
