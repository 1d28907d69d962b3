"""The factors by which the kernels turn products of queries and keys into logits."""

from __future__ import annotations

import math

from gqabench.attention_impls.problem import AttentionProblem

LOG2_E = math.log2(math.e)


def logit_scales(problem: AttentionProblem) -> tuple[float, float]:
    """Return the factors before and after the soft cap that turn products into logits in units of log2.

    `scale * x * log2(e)` without a cap, and `c * tanh(scale * x / c) * log2(e)` with a cap of `c`.
    """
    cap = problem.logits_soft_cap
    return (problem.scale * LOG2_E, 1.0) if cap is None else (problem.scale / cap, cap * LOG2_E)
