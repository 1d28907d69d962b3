"""How far from the reference an output may be and still count as correct.

The budget is derived from the data. An output is correct when it meets all three criteria.

1. The largest error of all, against `BUDGET_FACTOR` times the largest error that the textbook formula makes
   on the same inputs, when every tensor that textbook code stores (logits, probabilities, output, and with
   a quantised cache the dequantised K and V) is rounded to the problem's dtype and arithmetic is in
   float32. A correct kernel stores no more than that, and the factor allows for other roundings.
   In small problems the textbook may be exact by chance (one key: the output is `v` itself), so
   `FLOOR_ROUNDOFFS` units of roundoff of the largest output are added, and for the sums of `kv_len` terms,
   and of `head_dim` terms in a logit, `sqrt(n)` units of roundoff of float32.

2. The root mean square error of each row (one query of one head), against `ROW_FACTOR` times the textbook's
   in the same row, plus the size that rounding errors have in it (`correctness/rounding_noise.py`). In
   causal prefill the largest outputs are those of the first rows, which see few keys. The first criterion
   leaves the last rows, which are `1/sqrt(kv_len)` as large, free to be anything. This one does not.

3. The error in the direction of one key at an edge of what a row sees (`correctness/edge_keys.py`): at
   most `EDGE_DEVIATIONS` row budgets. Among thousands of keys, one more or less is lost in the rounding of
   bfloat16 by any measure of size, but not by its direction.

Why no worst-case analysis: a forward bound has the form `c u max|x| sum_j p_j |v_j|`. Rounding errors of
different keys cancel, but its terms do not. While outputs shrink with the context, as `1/sqrt(kv_len)` for
values of random sign, that bound does not: beyond some thousand keys it exceeds the outputs in bfloat16, and
an output of zeros would pass.

What these criteria cannot detect is listed in docs/adr/0003-error-budgets-are-derived.md, with numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from gqabench.attention_impls.contract import AttentionInputs
from gqabench.attention_impls.correctness.edge_keys import EdgeFilters
from gqabench.attention_impls.correctness.textbook import textbook_pass
from gqabench.attention_impls.dtypes import torch_dtype, unit_roundoff
from gqabench.attention_impls.problem import AttentionProblem

BUDGET_FACTOR = 3
FLOOR_ROUNDOFFS = 4
ROW_FACTOR = 2
EDGE_DEVIATIONS = 1.6
"""In row budgets, which are some three times the noise. On thousands of random problems correct
implementations reached 1.05."""


class OutputMismatch(ValueError):
    """An output whose shape or dtype cannot be compared. The message says what it is and should be."""


@dataclass(frozen=True)
class ObservedError:
    """How an output compares with its reference."""

    max_error: float
    """Largest absolute difference; infinite where the output holds NaN or infinity"""
    error_ratio: float
    """The worst of all criteria, as a fraction of what each allows: correct at 1 and below"""
    criterion: str
    """Which criterion `error_ratio` is of"""


@dataclass(frozen=True)
class ErrorBudget:
    """What an output may differ by. For `[B, H, R]` rows of attention, or `[B, L]` rows of a layer."""

    max_error: float
    """Largest absolute difference that counts as correct"""
    row_rms: torch.Tensor
    """Largest root mean square difference of each row: the shape of the output without its last dimension"""
    edges: EdgeFilters | None = None

    def excess(self, output: torch.Tensor, reference: torch.Tensor) -> ObservedError:
        """Compare an output with its reference. Raises `OutputMismatch` where they cannot be compared."""
        _require_comparable(output, reference)
        largest, ratios = 0.0, {"largest error": 0.0}
        # One sequence at a time, to bound the memory of the difference.
        for sequence, reference_part in enumerate(reference):
            error = output[sequence].to(reference.dtype) - reference_part
            largest_here = _largest(error)
            if not math.isfinite(largest_here):
                return ObservedError(math.inf, math.inf, "finite numbers")
            largest = max(largest, largest_here)
            if self.edges is not None:
                for name, deviation in self.edges.largest_deviations(sequence, error).items():
                    ratios[f"{name} of sequence {sequence}"] = deviation / EDGE_DEVIATIONS
            allowed = self.row_rms[sequence].to(reference.dtype)
            errors = error.square_().mean(-1).sqrt_()
            ratios[f"rows of sequence {sequence}"] = _worst_ratio(errors, allowed)
        ratios["largest error"] = _ratio(largest, self.max_error)
        criterion, ratio = max(ratios.items(), key=lambda item: item[1])
        return ObservedError(largest, ratio, criterion)


def error_budget(
    problem: AttentionProblem,
    inputs: AttentionInputs,
    reference: torch.Tensor,
    query_rows: torch.Tensor | None = None,
) -> ErrorBudget:
    """Return the budget of outputs for these queries. `reference` is of the same `query_rows`."""
    textbook = textbook_pass(problem, inputs, query_rows)
    summation = attention_summation_error(problem, typical_attention_logit(problem, inputs))
    largest = max_error_budget(problem, textbook.output, reference, summation)
    row_rms = row_budget(textbook.output, reference, textbook.row_noise)
    return ErrorBudget(largest, row_rms, textbook.edges.filters(row_rms))


def row_budget(textbook: torch.Tensor, reference: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return the largest allowed root mean square error of each row, in the dtype of the reference."""
    return ROW_FACTOR * row_errors(textbook, reference) + noise.to(reference.dtype)


def row_errors(output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return the root mean square difference of each row."""
    rows = torch.empty(reference.shape[:-1], dtype=reference.dtype, device=reference.device)
    for sequence, reference_part in enumerate(reference):
        difference = output[sequence].to(reference.dtype) - reference_part
        rows[sequence] = difference.square_().mean(-1).sqrt_()
    return rows


def row_sizes(values: torch.Tensor) -> torch.Tensor:
    """Return the root mean square of each row."""
    return values.square().mean(-1).sqrt()


def typical_attention_logit(problem: AttentionProblem, inputs: AttentionInputs) -> float:
    """Return the root mean square logit of independent queries and keys.

    That is `scale sqrt(head_dim) rms(q) rms(k)`.
    """
    spread = _root_mean_square(inputs.q) * _root_mean_square(inputs.k)
    return problem.scale * math.sqrt(problem.head_dim) * spread


def attention_summation_error(problem: AttentionProblem, logit: float) -> float:
    """Return the relative error of the sums of one attention, in units of roundoff.

    `logit` is the typical size of its logits.
    """
    return math.sqrt(problem.kv_len) + math.sqrt(problem.head_dim) * logit


def max_error_budget(
    problem: AttentionProblem, textbook: torch.Tensor, reference: torch.Tensor, summation_error: float
) -> float:
    """Return the largest allowed difference, given the textbook formula's output in `textbook_precision`.

    `summation_error` is relative to the largest output, in units of roundoff of float32.
    """
    rounding = FLOOR_ROUNDOFFS * unit_roundoff(torch_dtype(problem))
    summation = summation_error * unit_roundoff(torch.float32)
    floor = (rounding + summation) * float(reference.abs().max())
    return BUDGET_FACTOR * max_error(textbook, reference) + floor


def _ratio(error: float, allowed: float) -> float:
    if error == 0:
        return 0.0
    return error / allowed if allowed > 0 else math.inf


def _worst_ratio(errors: torch.Tensor, allowed: torch.Tensor) -> float:
    """Return the worst ratio; rows without error count as 0 even where nothing is allowed (no key seen)."""
    return float(torch.where(errors == 0, 0.0, errors / allowed).max())


def _root_mean_square(values: torch.Tensor) -> float:
    squares = sum(float(part.to(torch.float32).square().mean()) for part in values.flatten(0, 1))
    return math.sqrt(squares / (values.shape[0] * values.shape[1]))


def max_error(output: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the largest absolute difference; infinite where the output holds NaN or infinity.

    Raises `OutputMismatch` where the shapes differ or the output does not hold floating-point numbers.
    """
    _require_comparable(output, reference)
    largest = 0.0
    # One sequence at a time, to bound the memory of the difference.
    for output_part, reference_part in zip(output, reference, strict=True):
        largest_here = _largest(output_part.to(torch.float64) - reference_part)
        if not math.isfinite(largest_here):
            return math.inf
        largest = max(largest, largest_here)
    return largest


def _require_comparable(output: torch.Tensor, reference: torch.Tensor) -> None:
    if output.shape != reference.shape:
        raise OutputMismatch(f"the output has shape {list(output.shape)}, expected {list(reference.shape)}")
    if not output.is_floating_point():
        raise OutputMismatch(f"the output has dtype {output.dtype}, expected a floating-point dtype")


def _largest(error: torch.Tensor) -> float:
    """Return the largest size of all elements; NaN if one is NaN."""
    return float(torch.linalg.vector_norm(error, math.inf))


def output_mismatch(problem: AttentionProblem, output: object) -> str | None:
    """Return what is wrong with an output's type, shape or dtype for this problem; None if nothing is."""
    shape = [problem.batch_size, problem.num_q_heads, problem.q_len, problem.head_dim]
    if not isinstance(output, torch.Tensor):
        return f"the output is {type(output).__name__}, expected a tensor"
    if list(output.shape) != shape:
        return f"the output has shape {list(output.shape)}, expected {shape}"
    if output.dtype != torch_dtype(problem):
        return f"the output has dtype {output.dtype}, expected {torch_dtype(problem)}"
    return None
