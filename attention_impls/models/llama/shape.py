"""The sizes of a Llama-shaped model, and the minimum cost of one decode step. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from gqabench.attention_impls.cost import (
    kv_cache_bytes_per_token,
    model_flops,
    projection_parameters,
    visible_keys,
)
from gqabench.attention_impls.problem import AttentionProblem

VOCAB_SIZE = 1024
"""Small, so that the output head, which has nothing to do with attention, does not dominate a few layers."""

HF_CACHES = ("dynamic", "static")
"""`DynamicCache`, which concatenates at every step, and `StaticCache`, which has room from the start."""

_MLP_MULTIPLE = 256


@dataclass(frozen=True, kw_only=True)
class LlamaShape:
    """The sizes of a model around the heads of an attention problem."""

    num_layers: int
    """Layers that are built and measured: those of the preset, or fewer"""
    hidden_size: int
    intermediate_size: int
    """Width of the MLP between its gate and its output"""
    hf_cache: str
    """`dynamic` or `static`"""

    def num_parameters(self, problem: AttentionProblem) -> int:
        """Count all parameters: layers, embeddings, the last norm and the output head."""
        embeddings = VOCAB_SIZE * self.hidden_size
        return self.num_layers * self._layer_parameters(problem) + 2 * embeddings + self.hidden_size

    def step_bytes(self, problem: AttentionProblem) -> int:
        """Return the bytes that a decode step must move at least once.

        Those are parameters, cache, embedded tokens and logits. Of the embeddings, only the new tokens' rows
        are read. Of the visible tokens, past ones are read from the cache and new ones are written to it.
        Activations could stay on the chip, and do not count.
        """
        weights = self.num_layers * self._layer_parameters(problem) + self.hidden_size
        head = VOCAB_SIZE * self.hidden_size
        activations = problem.batch_size * (self.hidden_size + VOCAB_SIZE)
        cache = self.num_layers * visible_keys(problem) * kv_cache_bytes_per_token(problem)
        return (weights + head + activations) * problem.itemsize + cache

    def step_flops(self, problem: AttentionProblem) -> int:
        """Count the operations of a decode step: two for each matrix parameter and new token, plus attention.

        RoPE, norms, activations and the softmax are not counted.
        """
        matrices = self.num_layers * self._matrix_parameters(problem) + VOCAB_SIZE * self.hidden_size
        return 2 * problem.batch_size * matrices + self.num_layers * model_flops(problem)

    def _matrix_parameters(self, problem: AttentionProblem) -> int:
        """Count those of one layer: the four projections, and gate, up and down of the MLP."""
        return (
            projection_parameters(problem, self.hidden_size) + 3 * self.hidden_size * self.intermediate_size
        )

    def _layer_parameters(self, problem: AttentionProblem) -> int:
        return self._matrix_parameters(problem) + 2 * self.hidden_size


def default_intermediate_size(hidden_size: int) -> int:
    """Return two thirds of four times the width (Touvron et al. 2023, arXiv 2302.13971, section 2.2).

    Rounded up to a multiple of 256, as in Llama's code.
    """
    return -(-8 * hidden_size // 3 // _MLP_MULTIPLE) * _MLP_MULTIPLE
