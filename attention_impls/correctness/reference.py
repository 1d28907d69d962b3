"""The reference: the formula in float64, which defines what every implementation must compute."""

from __future__ import annotations

from dataclasses import replace

import torch

from gqabench.attention_impls.abilities import device_reasons, plain_cache_reasons
from gqabench.attention_impls.contract import (
    AttentionImpl,
    AttentionInputs,
    Copying,
    PreparedAttention,
    TimedCall,
)
from gqabench.attention_impls.correctness.chunked_formula import EXACT, chunked_formula
from gqabench.attention_impls.correctness.error_budget import max_error
from gqabench.attention_impls.dtypes import torch_dtype
from gqabench.attention_impls.problem import AttentionProblem


def reference_attention(
    problem: AttentionProblem, inputs: AttentionInputs, query_rows: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the exact answer, float64 `[batch_size, num_q_heads, q_len or num_rows, head_dim]`.

    `query_rows` selects queries by index (int64, `[num_rows]`), where all of them would take too long. The
    values in `inputs` are taken as exact, except that K and V pass through the problem's `kv_dtype`, as in a
    quantised cache. `page_size` has no effect here.
    """
    return chunked_formula(problem, inputs, EXACT, query_rows)


def quantisation_error(
    problem: AttentionProblem,
    inputs: AttentionInputs,
    reference: torch.Tensor,
    query_rows: torch.Tensor | None = None,
) -> float:
    """Return the largest absolute change that the problem's `kv_dtype` makes to the exact answer.

    `reference` is that of the quantised cache, for the same `query_rows`.
    """
    unquantised = replace(problem, kv_dtype=None)
    return max_error(reference, reference_attention(unquantised, inputs, query_rows))


class Reference(AttentionImpl):
    """The reference as an implementation: float64 inside, the problem's dtype outside."""

    name = "reference"
    timed_call = TimedCall(layout_conversion=Copying.TILES)

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        return [*device_reasons(problem), *plain_cache_reasons(problem)]

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        def run() -> torch.Tensor:
            return reference_attention(problem, inputs).to(torch_dtype(problem))

        return PreparedAttention(run, inputs.k.nbytes + inputs.v.nbytes)
