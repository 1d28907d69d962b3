"""Seeded inputs and weights of the `layer` workload."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from gqabench.attention_impls.inputs import Stream, problem_normals
from gqabench.attention_impls.problem import AttentionProblem


@dataclass(frozen=True)
class LayerInputs:
    """The inputs of a layer. The harness writes new hidden states into `hidden` between calls."""

    hidden: torch.Tensor
    """`[batch_size, q_len, hidden_size]`: the new tokens"""
    past_k: torch.Tensor
    """`[batch_size, num_kv_heads, kv_len - q_len, head_dim]`: the cache before the call, rotated already"""
    past_v: torch.Tensor
    """`[batch_size, num_kv_heads, kv_len - q_len, head_dim]`"""

    @property
    def hidden_size(self) -> int:
        return self.hidden.shape[-1]


@dataclass(frozen=True)
class LayerWeights:
    """Matrices `[out, in]`, as `torch.nn.Linear` has them, in the problem's dtype."""

    w_q: torch.Tensor
    w_k: torch.Tensor
    w_v: torch.Tensor
    w_o: torch.Tensor


def make_layer_inputs(problem: AttentionProblem, seed: int, hidden_size: int | None = None) -> LayerInputs:
    """Draw standard normals in the problem's dtype. `hidden_size` None: `num_q_heads * head_dim`."""
    past_len = problem.kv_len - problem.q_len
    past_shape = (problem.batch_size, problem.num_kv_heads, past_len, problem.head_dim)
    return LayerInputs(
        hidden=problem_normals(problem, _hidden_shape(problem, hidden_size), seed, Stream.HIDDEN),
        past_k=problem_normals(problem, past_shape, seed, Stream.K),
        past_v=problem_normals(problem, past_shape, seed, Stream.V),
    )


def make_hidden_states(
    problem: AttentionProblem, seed: int, hidden_size: int | None, count: int
) -> torch.Tensor:
    """Draw hidden states to write into `inputs.hidden` one after another.

    `[count, batch_size, q_len, hidden_size]`.
    """
    shape = (count, *_hidden_shape(problem, hidden_size))
    return problem_normals(problem, shape, seed, Stream.HIDDEN_VARIANTS)


def make_layer_weights(problem: AttentionProblem, seed: int, hidden_size: int) -> LayerWeights:
    """Draw normals scaled by `1 / sqrt(fan_in)`, so that activations keep the size of the hidden states."""
    q_width, kv_width = problem.num_q_heads * problem.head_dim, problem.num_kv_heads * problem.head_dim

    def weight(out_width: int, in_width: int, stream: Stream) -> torch.Tensor:
        return problem_normals(problem, (out_width, in_width), seed, stream).div_(math.sqrt(in_width))

    return LayerWeights(
        w_q=weight(q_width, hidden_size, Stream.W_Q),
        w_k=weight(kv_width, hidden_size, Stream.W_K),
        w_v=weight(kv_width, hidden_size, Stream.W_V),
        w_o=weight(hidden_size, q_width, Stream.W_O),
    )


def _hidden_shape(problem: AttentionProblem, hidden_size: int | None) -> tuple[int, int, int]:
    width = problem.num_q_heads * problem.head_dim if hidden_size is None else hidden_size
    return problem.batch_size, problem.q_len, width
