"""How far from the reference an output may be and still count as correct.

The budget is derived from the data, not tuned by hand. Its parts:

- `BUDGET_FACTOR` times the error that the textbook formula makes on the same inputs, when every tensor that
  textbook code stores (logits, probabilities, output) is rounded to the problem's dtype, and arithmetic is
  in float32. A correct kernel stores no more than that. The factor allows for the luck of other roundings.
- `FLOOR_ROUNDOFFS` units of roundoff of the largest output. In small problems the textbook may be exact by
  luck (one key: the output is `v` itself) where another correct order of operations rounds.
- `sqrt(n)` units of roundoff of float32, of the largest output, for both sums: of `kv_len` terms, and of
  `head_dim` terms in a logit, where the absolute error counts. A sum in any order keeps to it with high
  probability (Higham and Mary 2019, SIAM J. Sci. Comput. 41(5), A2815). The textbook above sums in blocks; a
  matrix-vector kernel that adds one key after another errs more.

Why no worst-case analysis: a forward bound has the form `c u max|x| sum_j p_j |v_j|`. Rounding errors of
different keys cancel, but its terms do not. While outputs shrink with the context, as `1/sqrt(kv_len)` for
values of random sign, that bound does not: beyond some thousand keys it exceeds the outputs in bfloat16, and
an output of zeros would pass.
"""

from __future__ import annotations

import math

import torch

from attention_impls.chunked_formula import Precision, chunked_formula
from attention_impls.contract import AttentionInputs
from attention_impls.dtypes import torch_dtype, unit_roundoff
from attention_impls.problem import AttentionProblem

BUDGET_FACTOR = 3
FLOOR_ROUNDOFFS = 4


class OutputMismatch(ValueError):
    """An output whose shape or dtype cannot be compared. The message says what it is and should be."""


def error_budget(
    problem: AttentionProblem,
    inputs: AttentionInputs,
    reference: torch.Tensor,
    query_rows: torch.Tensor | None = None,
) -> float:
    """The largest `max_error` that counts as correct. `reference` is of the same `query_rows`."""
    textbook = chunked_formula(problem, inputs, textbook_precision(problem), query_rows)
    summation = attention_summation_error(problem, typical_logit(problem, inputs))
    return budget_from_textbook(problem, textbook, reference, summation)


def textbook_precision(problem: AttentionProblem) -> Precision:
    """Arithmetic in float32, as matrix units accumulate, and storage in the problem's dtype."""
    return Precision(compute=torch.float32, store=torch_dtype(problem))


def typical_logit(problem: AttentionProblem, inputs: AttentionInputs) -> float:
    """Root mean square logit of independent queries and keys: `scale sqrt(head_dim) rms(q) rms(k)`."""
    spread = _root_mean_square(inputs.q) * _root_mean_square(inputs.k)
    return problem.scale * math.sqrt(problem.head_dim) * spread


def attention_summation_error(problem: AttentionProblem, logit: float) -> float:
    """Relative error of the sums of one attention, in units of roundoff; `logit` is a `typical_logit`."""
    return math.sqrt(problem.kv_len) + math.sqrt(problem.head_dim) * logit


def budget_from_textbook(
    problem: AttentionProblem, textbook: torch.Tensor, reference: torch.Tensor, summation_error: float
) -> float:
    """The budget, from an output of the textbook formula in `textbook_precision`.

    `summation_error` is relative to the largest output, in units of roundoff of float32.
    """
    rounding = FLOOR_ROUNDOFFS * unit_roundoff(torch_dtype(problem))
    summation = summation_error * unit_roundoff(torch.float32)
    floor = (rounding + summation) * float(reference.abs().max())
    return BUDGET_FACTOR * max_error(textbook, reference) + floor


def _root_mean_square(values: torch.Tensor) -> float:
    squares = sum(float(part.to(torch.float32).square().mean()) for part in values.flatten(0, 1))
    return math.sqrt(squares / (values.shape[0] * values.shape[1]))


def max_error(output: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest absolute difference; infinite where the output holds NaN or infinity.

    Raises `OutputMismatch` where the shapes differ or the output does not hold floating-point numbers.
    """
    if output.shape != reference.shape:
        raise OutputMismatch(f"the output has shape {list(output.shape)}, expected {list(reference.shape)}")
    if not output.is_floating_point():
        raise OutputMismatch(f"the output has dtype {output.dtype}, expected a floating-point dtype")
    largest = 0.0
    # One sequence after another bounds the memory of the difference.
    for output_part, reference_part in zip(output, reference, strict=True):
        difference = (output_part.to(torch.float64) - reference_part).abs()
        if not bool(torch.isfinite(difference).all()):
            return float("inf")
        largest = max(largest, float(difference.max()))
    return largest


def output_mismatch(problem: AttentionProblem, output: object) -> str | None:
    """What is wrong with the type, shape or dtype of an output of this problem; None when they are right."""
    shape = [problem.batch_size, problem.num_q_heads, problem.q_len, problem.head_dim]
    if not isinstance(output, torch.Tensor):
        return f"the output is {type(output).__name__}, expected a tensor"
    if list(output.shape) != shape:
        return f"the output has shape {list(output.shape)}, expected {shape}"
    if output.dtype != torch_dtype(problem):
        return f"the output has dtype {output.dtype}, expected {torch_dtype(problem)}"
    return None
