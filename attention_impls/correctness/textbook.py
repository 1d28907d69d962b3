"""The output of the textbook formula in the problem's dtype, and the expected size of its rounding errors."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gqabench.attention_impls.contract import AttentionInputs
from gqabench.attention_impls.correctness.chunked_formula import (
    Precision,
    formula_chunks,
    grouped_shape,
    ungrouped,
)
from gqabench.attention_impls.correctness.edge_keys import EdgeCollector, EdgeKeys
from gqabench.attention_impls.correctness.rounding_noise import row_noise
from gqabench.attention_impls.dtypes import torch_dtype
from gqabench.attention_impls.problem import AttentionProblem


@dataclass(frozen=True)
class TextbookPass:
    """One pass of the textbook formula."""

    output: torch.Tensor
    """`[B, H, R, D]`"""
    row_noise: torch.Tensor
    """`[B, H, R]`: the size of rounding errors by `gqabench.attention_impls.correctness.rounding_noise`"""
    edges: EdgeKeys


def textbook_precision(problem: AttentionProblem) -> Precision:
    """Return the textbook's precision: arithmetic in float32, storage in the problem's dtype."""
    return Precision(compute=torch.float32, store=torch_dtype(problem))


def textbook_pass(
    problem: AttentionProblem, inputs: AttentionInputs, query_rows: torch.Tensor | None = None
) -> TextbookPass:
    """Run the textbook formula, as matrix units do: sums in float32, tensors stored in the problem's dtype.

    `query_rows` selects queries by index (int64, `[num_rows]`); None means all.
    """
    precision = textbook_precision(problem)
    num_rows = problem.q_len if query_rows is None else len(query_rows)
    shape, device = grouped_shape(problem, num_rows), inputs.q.device
    output_BGND = torch.empty(*shape, problem.head_dim, dtype=precision.compute, device=device)
    noise_BGN = torch.empty(shape, dtype=precision.compute, device=device)
    edges = EdgeCollector(problem, inputs.v, query_rows)
    for chunk in formula_chunks(problem, inputs, precision, query_rows):
        output_BGND[chunk.place] = output_ND = chunk.output()
        noise_BGN[chunk.place] = row_noise(problem, chunk, output_ND)
        edges.add(chunk)
    return TextbookPass(ungrouped(output_BGND, num_rows), ungrouped(noise_BGN, num_rows), edges.edges())
