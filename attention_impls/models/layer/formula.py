"""What a layer must compute, in a chosen precision: its float64 reference and its error budget.

Shape suffixes: B batch, H query heads, G key/value heads, L new tokens, K kv_len, D head_dim,
E hidden_size, X heads * head_dim.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace

import torch

from gqabench.attention_impls.contract import AttentionInputs
from gqabench.attention_impls.correctness.chunked_formula import EXACT, Precision, chunked_formula
from gqabench.attention_impls.correctness.error_budget import (
    ErrorBudget,
    attention_summation_error,
    max_error_budget,
    row_budget,
    typical_attention_logit,
)
from gqabench.attention_impls.correctness.textbook import textbook_pass, textbook_precision
from gqabench.attention_impls.dtypes import torch_dtype, unit_roundoff
from gqabench.attention_impls.models.layer.inputs import LayerInputs, LayerWeights, make_layer_weights
from gqabench.attention_impls.models.layer.rope import DEFAULT_THETA, rope_tables, rotate
from gqabench.attention_impls.problem import AttentionProblem


def layer_reference(problem: AttentionProblem, inputs: LayerInputs, seed: int) -> torch.Tensor:
    """Return the exact answer, float64 `[batch_size, q_len, hidden_size]`, with the weights of `seed`."""
    return _layer_formula(problem, inputs, seed, EXACT)


def layer_error_budget(
    problem: AttentionProblem, inputs: LayerInputs, seed: int, reference: torch.Tensor
) -> ErrorBudget:
    """Return the budget of a layer's output, derived as in `correctness.error_budget`; rows are `[B, L]`.

    The textbook formula includes the projections and RoPE, whose results it rounds to the problem's dtype.
    The sums in projections, of `hidden_size` and of `num_q_heads * head_dim` terms, count like the others.
    A row mixes all heads, so edge keys are not checked here, but for the attention inside.
    """
    precision = textbook_precision(problem)
    textbook = _layer_formula(problem, inputs, seed, precision)
    weights = _weights(problem, inputs, seed, precision)
    first = _attention_inputs(problem, inputs, weights, precision, sequence=0)
    logit = typical_attention_logit(problem, first)
    summation = attention_summation_error(problem, logit) + (
        math.sqrt(inputs.hidden_size) * (1 + logit) + math.sqrt(problem.num_q_heads * problem.head_dim)
    )
    noise_BL = torch.empty(reference.shape[:-1], device=reference.device)
    for sequence in range(problem.batch_size):
        attention_inputs = _attention_inputs(problem, inputs, weights, precision, sequence)
        attended = textbook_pass(replace(problem, batch_size=1), attention_inputs)
        noise_BL[sequence] = _row_noise(problem, weights, attended.row_noise[0], reference[sequence])
    return ErrorBudget(
        max_error_budget(problem, textbook, reference, summation), row_budget(textbook, reference, noise_BL)
    )


def _row_noise(
    problem: AttentionProblem, weights: LayerWeights, noise_HL: torch.Tensor, reference_LE: torch.Tensor
) -> torch.Tensor:
    """Return the size of rounding errors in each row of a sequence, `[L]`.

    That is the noise of attention, mixed by `w_o`, and that of the output. Sums in the projections err in
    float32 by the root of their length.
    """
    roundoff = unit_roundoff(torch_dtype(problem))
    float32_part = (unit_roundoff(torch.float32) / roundoff) ** 2
    width, hidden_size = weights.w_q.shape
    gains_H = weights.w_o.square().mean(0).view(problem.num_q_heads, problem.head_dim).sum(-1)
    attention_L = gains_H @ noise_HL.square() * (1 + hidden_size * float32_part)
    sizes_L = reference_LE.square().mean(-1).to(noise_HL.dtype)
    return (attention_L + roundoff**2 * (1 + width * float32_part) * sizes_L).sqrt()


def _layer_formula(
    problem: AttentionProblem, inputs: LayerInputs, seed: int, precision: Precision
) -> torch.Tensor:
    """Compute one sequence after another, so that only the cache of one is held in the precision."""
    weights = _weights(problem, inputs, seed, precision)
    output_BLE = torch.empty(inputs.hidden.shape, dtype=precision.compute, device=inputs.hidden.device)
    for sequence in range(problem.batch_size):
        attention_inputs = _attention_inputs(problem, inputs, weights, precision, sequence)
        attended_1HLD = chunked_formula(replace(problem, batch_size=1), attention_inputs, precision)
        merged_LX = attended_1HLD[0].transpose(0, 1).flatten(1)
        output_BLE[sequence] = precision.stored(merged_LX @ weights.w_o.mT)
    return output_BLE


def _attention_inputs(
    problem: AttentionProblem, inputs: LayerInputs, weights: LayerWeights, precision: Precision, sequence: int
) -> AttentionInputs:
    """Return the rotated q, k and v of one sequence, with the past in front: `batch_size` is 1."""
    hidden_LE = inputs.hidden[sequence].to(precision.compute)
    positions_L = torch.arange(problem.kv_len - problem.q_len, problem.kv_len, device=hidden_LE.device)
    tables = rope_tables(positions_L, problem.head_dim, DEFAULT_THETA, precision.compute)

    def project(weight: torch.Tensor) -> torch.Tensor:
        projected_LX = precision.stored(hidden_LE @ weight.mT)
        return projected_LX.view(problem.q_len, -1, problem.head_dim).transpose(0, 1)

    def with_past(past_BGKD: torch.Tensor, new_GLD: torch.Tensor) -> torch.Tensor:
        return torch.cat([past_BGKD[sequence].to(precision.compute), new_GLD], dim=1)[None]

    return AttentionInputs(
        q=precision.stored(rotate(project(weights.w_q), *tables))[None],
        k=with_past(inputs.past_k, precision.stored(rotate(project(weights.w_k), *tables))),
        v=with_past(inputs.past_v, project(weights.w_v)),
    )


def _weights(problem: AttentionProblem, inputs: LayerInputs, seed: int, precision: Precision) -> LayerWeights:
    weights = make_layer_weights(problem, seed, inputs.hidden_size)
    return LayerWeights(*(getattr(weights, f.name).to(precision.compute) for f in fields(weights)))
