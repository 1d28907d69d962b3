"""Plain attention without expansion: the queries of a group are the rows of one matrix.

Shape suffixes: B batch, G key/value heads, S group_size, H query heads (G * S), Q q_len, N rows (S * Q),
K kv_len, D head_dim.
"""

from __future__ import annotations

import torch

from attention_impls.abilities import device_reasons, plain_cache_reasons
from attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from attention_impls.masks import additive_mask
from attention_impls.probabilities import attention_probabilities
from attention_impls.problem import AttentionProblem


class GroupedMatmul(AttentionImpl):
    """One matrix product per key/value head, `[N, D] @ [D, K]`, so that K and V are read once, in place."""

    name = "grouped_matmul"
    timed_call = TimedCall()

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        return [*device_reasons(problem), *plain_cache_reasons(problem)]

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        mask = additive_mask(problem)
        bias_B11QK = None if mask is None else mask.bias[:, :, None]
        q_BHQD = inputs.q
        grouped = (problem.batch_size, problem.num_kv_heads, problem.group_size, problem.q_len)

        def run() -> torch.Tensor:
            q_BGND = q_BHQD.reshape(*grouped[:2], -1, problem.head_dim)
            products_BGSQK = (q_BGND @ inputs.k.mT).view(*grouped, problem.kv_len)
            probs_BGSQK = attention_probabilities(
                products_BGSQK, problem.scale, problem.logits_soft_cap, bias_B11QK
            )
            output_BGND = probs_BGSQK.flatten(2, 3) @ inputs.v
            output_BHQD = output_BGND.view(q_BHQD.shape)
            return output_BHQD if mask is None else mask.zero_dead_rows(output_BHQD)

        return PreparedAttention(run, inputs.k.nbytes + inputs.v.nbytes)
