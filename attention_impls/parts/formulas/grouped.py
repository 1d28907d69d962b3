"""The plain formula without expansion: the queries of a group are the rows of one matrix.

Shape suffixes: B batch, G key/value heads, S group_size, H query heads (G * S), Q q_len, N rows (S * Q),
K kv_len, D head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gqabench.attention_impls.parts.formulas.masks import AdditiveMask, additive_mask
from gqabench.attention_impls.parts.formulas.probabilities import attention_probabilities
from gqabench.attention_impls.problem import AttentionProblem


@dataclass(frozen=True)
class GroupedFormula:
    """One matrix product per key/value head, `[N, D] @ [D, K]`, so that K and V are read once."""

    problem: AttentionProblem
    mask: AdditiveMask | None

    @classmethod
    def for_problem(cls, problem: AttentionProblem) -> GroupedFormula:
        """Build the mask, if the problem needs one."""
        return cls(problem, additive_mask(problem))

    def __call__(self, q_BHQD: torch.Tensor, k_BGKD: torch.Tensor, v_BGKD: torch.Tensor) -> torch.Tensor:
        problem = self.problem
        grouped = (problem.batch_size, problem.num_kv_heads, problem.group_size, problem.q_len)
        bias_B11QK = None if self.mask is None else self.mask.bias[:, :, None]
        q_BGND = q_BHQD.reshape(*grouped[:2], -1, problem.head_dim)
        products_BGSQK = (q_BGND @ k_BGKD.mT).view(*grouped, problem.kv_len)
        probs_BGSQK = attention_probabilities(
            products_BGSQK, problem.scale, problem.logits_soft_cap, bias_B11QK
        )
        output_BGND = probs_BGSQK.flatten(2, 3) @ v_BGKD
        output_BHQD = output_BGND.view(q_BHQD.shape)
        return output_BHQD if self.mask is None else self.mask.zero_dead_rows(output_BHQD)
