"""The gradients of attention by its formula, and how far from them an implementation's may be.

With logits `x = cap(q k^T scale)`, probabilities `p = softmax(x)` and outputs `o = p v`, a gradient `do` of
the outputs gives (Dao et al. 2022, "FlashAttention", arXiv 2205.14135, appendix B.2)

    dv = p^T do        dp = do v^T        dx = p (dp - sum(p dp))
    dq = dx k scale    dk = dx^T q scale

and a soft cap puts its derivative, `1 - (x / cap)^2`, between dx and the products. The gradients of one
key/value head are the sums over all query heads of its group.

Shape suffixes: as in `gqabench.attention_impls.correctness.chunked_formula`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from gqabench.attention_impls.contract import AttentionInputs
from gqabench.attention_impls.correctness.chunked_formula import (
    EXACT,
    FormulaChunk,
    Precision,
    formula_chunks,
)
from gqabench.attention_impls.correctness.error_budget import (
    BUDGET_FACTOR,
    FLOOR_ROUNDOFFS,
    ObservedError,
    max_error,
    row_budget,
    row_errors,
    row_sizes,
)
from gqabench.attention_impls.correctness.rounding_noise import mean_squares, typical_logit
from gqabench.attention_impls.correctness.textbook import textbook_precision
from gqabench.attention_impls.dtypes import torch_dtype, unit_roundoff
from gqabench.attention_impls.problem import AttentionProblem


@dataclass(frozen=True)
class TrainStep:
    """The outputs of one forward and backward pass."""

    output: torch.Tensor
    """`[B, H, Q, D]`"""
    dq: torch.Tensor
    """`[B, H, Q, D]`"""
    dk: torch.Tensor
    """`[B, G, K, D]`"""
    dv: torch.Tensor
    """`[B, G, K, D]`"""

    def of_head(self, sequence: int, kv_head: int, group_size: int) -> TrainStep:
        """Return the part of one key/value head of one sequence; B and G become 1."""
        rows = slice(kv_head * group_size, (kv_head + 1) * group_size)
        one, kv_head_only = slice(sequence, sequence + 1), slice(kv_head, kv_head + 1)
        return TrainStep(
            self.output[one, rows], self.dq[one, rows], self.dk[one, kv_head_only], self.dv[one, kv_head_only]
        )


@dataclass(frozen=True)
class TrainBudget:
    """What a step may differ by from its reference."""

    max_errors: dict[str, float]
    """By tensor: the largest absolute difference"""
    row_rms: dict[str, torch.Tensor]
    """By tensor: the largest root mean square difference of each row"""

    def excess(self, step: TrainStep, reference: TrainStep) -> ObservedError:
        """Compare a step with its reference."""
        worst = ObservedError(0.0, 0.0, "largest error")
        for name in TENSORS:
            output, exact = getattr(step, name), getattr(reference, name)
            largest = max_error(output, exact)
            rows = row_errors(output, exact)
            allowed = self.row_rms[name]
            ratios = {
                f"largest error of {name}": _ratio(
                    torch.tensor(largest), torch.tensor(self.max_errors[name])
                ),
                f"rows of {name}": _ratio(rows, allowed),
            }
            criterion, ratio = max(ratios.items(), key=lambda item: item[1])
            error = max(worst.max_error, largest)
            worst = (
                ObservedError(error, ratio, criterion)
                if not ratio <= worst.error_ratio
                else replace(worst, max_error=error)
            )
        return worst


TENSORS = tuple(item.name for item in fields(TrainStep))


def head_problem(problem: AttentionProblem, sequence: int) -> AttentionProblem:
    """Return the problem of one key/value head of one sequence; gradients of different heads do not mix."""
    kv_lens = None if problem.kv_lens is None else (problem.kv_lens[sequence],)
    return replace(problem, batch_size=1, num_q_heads=problem.group_size, num_kv_heads=1, kv_lens=kv_lens)


def reference_step(
    problem: AttentionProblem, inputs: AttentionInputs, grad_output: torch.Tensor
) -> TrainStep:
    """Return outputs and gradients in float64."""
    return train_formula(problem, inputs, grad_output, EXACT)


def train_budget(
    problem: AttentionProblem, inputs: AttentionInputs, grad_output: torch.Tensor, reference: TrainStep
) -> TrainBudget:
    """Return the budget of a step, as for outputs (`gqabench.attention_impls.correctness.error_budget`).

    A few times the errors of the formula in the problem's own dtype and, for each row, the size that
    independent rounding errors have there: a gradient may cancel to nothing, but the rounding of the terms
    that cancel does not (the first query of a causal mask has `dq = 0`).
    """
    textbook, noise = _step_and_noise(problem, inputs, grad_output, textbook_precision(problem))
    summation = (problem.kv_len**0.5 + problem.head_dim**0.5) * unit_roundoff(torch.float32)
    relative = FLOOR_ROUNDOFFS * unit_roundoff(torch_dtype(problem)) + summation
    max_errors, row_rms = {}, {}
    for name in TENSORS:
        rounded, exact, rows = getattr(textbook, name), getattr(reference, name), getattr(noise, name)
        floor = relative * float(exact.abs().max()) + BUDGET_FACTOR * float(rows.max())
        max_errors[name] = BUDGET_FACTOR * max_error(rounded, exact) + floor
        row_rms[name] = row_budget(rounded, exact, rows[..., 0] + relative * row_sizes(exact))
    return TrainBudget(max_errors, row_rms)


def train_formula(
    problem: AttentionProblem, inputs: AttentionInputs, grad_output: torch.Tensor, precision: Precision
) -> TrainStep:
    """Return outputs and gradients in `precision.compute`, rounded where textbook code stores a tensor."""
    step, _ = _step_and_noise(problem, inputs, grad_output, precision)
    return step


def _step_and_noise(
    problem: AttentionProblem, inputs: AttentionInputs, grad_output: torch.Tensor, precision: Precision
) -> tuple[TrainStep, TrainStep]:
    """Return the step, and the size of rounding errors in each row: `[..., 1]` instead of `[..., D]`."""
    step, variance = (_Accumulator(problem, inputs, precision, width) for width in (problem.head_dim, 1))
    grad_BGND = grad_output.reshape(step.dq.shape)
    for chunk in formula_chunks(problem, inputs, precision):
        place, keys = chunk.place, (chunk.sequence, chunk.kv_head, chunk.seen)
        grad_ND = grad_BGND[place].to(precision.compute)
        dp_NK = precision.stored(grad_ND @ chunk.v.to(precision.compute).mT)
        dx_NK = _logit_gradients(problem, chunk, dp_NK)
        step.output[place] = output_ND = chunk.output()
        step.dq[place] = precision.stored(dx_NK @ chunk.k.to(precision.compute) * problem.scale)
        step.dk[keys] += dx_NK.mT @ chunk.q * problem.scale
        step.dv[keys] += chunk.probs.mT @ grad_ND
        p2_NK, dx2_NK = gradient_variances(problem, chunk, output_ND, grad_ND, dp_NK)
        squares_K1, scale2 = mean_squares(chunk.k).to(p2_NK.dtype)[:, None], problem.scale**2
        variance.output[place] = p2_NK @ mean_squares(chunk.v).to(p2_NK.dtype)[:, None]
        variance.dq[place] = dx2_NK @ squares_K1 * scale2
        variance.dk[keys] += dx2_NK.mT @ chunk.q.square().mean(-1, keepdim=True) * scale2
        variance.dv[keys] += p2_NK.mT @ grad_ND.square().mean(-1, keepdim=True)
    exact = step.finished()
    noise = variance.finished(lambda values: values.sqrt())
    return TrainStep(exact.output, exact.dq, *map(precision.stored, (exact.dk, exact.dv))), noise


class _Accumulator:
    """The tensors of a step while the chunks of the formula are added, queries grouped by key/value head."""

    def __init__(
        self, problem: AttentionProblem, inputs: AttentionInputs, precision: Precision, width: int
    ) -> None:
        grouped = (problem.batch_size, problem.num_kv_heads, problem.group_size * problem.q_len)
        options: Any = {"dtype": precision.compute, "device": inputs.q.device}
        self._q_shape = (*inputs.q.shape[:-1], width)
        self.output, self.dq = (torch.zeros(*grouped, width, **options) for _ in range(2))
        self.dk, self.dv = (torch.zeros(*inputs.k.shape[:-1], width, **options) for _ in range(2))

    def finished(self, last: Callable[[torch.Tensor], torch.Tensor] = lambda values: values) -> TrainStep:
        output, dq = (values.view(self._q_shape) for values in (self.output, self.dq))
        return TrainStep(*map(last, (output, dq, self.dk, self.dv)))


def gradient_variances(
    problem: AttentionProblem,
    chunk: FormulaChunk,
    output_ND: torch.Tensor,
    grad_ND: torch.Tensor,
    dp_NK: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the variances of rounding in the probabilities and in the logit gradients, each `[N, K]`.

    To first order, with `u` and `w` the roundoff of the dtype and of float32, and errors of a stored `p`, of
    its logit `x` (typical size `X`) and of `dp` (typical size `T`) as in `correctness.rounding_noise`:

        var p  = p^2 (u^2 (2 + x^2 + X^2) + 8 w^2 D X^2)
        var dx = var p f^2 + p^2 (u^2 (f^2 + 2 sum do^2 o^2) + 8 w^2 D T^2),  f^2 = dp^2 + (sum do o)^2

    Kernels compute `sum p dp` as `sum do o` from stored outputs (Dao et al., appendix B.2). The rounding of
    those outputs does not cancel where probabilities near one make `dp - sum p dp` small.
    """
    u2, w2 = unit_roundoff(torch_dtype(problem)) ** 2, unit_roundoff(torch.float32) ** 2
    x2_NK = chunk.logits.masked_fill(chunk.logits == float("-inf"), 0).square()
    typical2_N1 = typical_logit(problem, chunk).square()[:, None]
    size2_N1 = grad_ND.square().sum(-1, keepdim=True) * mean_squares(chunk.v).mean()
    luck = 1 + 8 / problem.head_dim
    p2_NK = luck * chunk.probs.square()
    var_p_NK = p2_NK * (u2 * (2 + x2_NK + typical2_N1) + 8 * w2 * problem.head_dim * typical2_N1)
    products_ND = grad_ND * output_ND
    factors_NK = dp_NK.square() + products_ND.sum(-1, keepdim=True).square()
    stored2_N1 = 2 * products_ND.square().sum(-1, keepdim=True)
    sums2_N1 = 8 * w2 * problem.head_dim * size2_N1
    var_dx_NK = var_p_NK * factors_NK + p2_NK * (u2 * (factors_NK + stored2_N1) + sums2_N1)
    return var_p_NK, var_dx_NK


def _logit_gradients(problem: AttentionProblem, chunk: FormulaChunk, dp_NK: torch.Tensor) -> torch.Tensor:
    """Return the gradients of the products `q k^T scale`, `[N, K]`."""
    stored = chunk.precision.stored
    dx_NK = stored(chunk.probs * (dp_NK - (chunk.probs * dp_NK).sum(-1, keepdim=True)))
    if problem.logits_soft_cap is not None:
        hidden_NK = chunk.logits == float("-inf")
        slopes_NK = 1 - (chunk.logits.masked_fill(hidden_NK, 0) / problem.logits_soft_cap).square()
        dx_NK = stored(dx_NK * slopes_NK)
    return dx_NK


def _ratio(errors: torch.Tensor, allowed: torch.Tensor) -> float:
    """Return the worst error as a share of what is allowed; no error is 0 even where nothing is allowed."""
    return float(torch.where(errors == 0, 0.0, errors / allowed).max())
