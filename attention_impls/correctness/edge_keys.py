"""The keys at both ends of what a query sees, where masks and lengths are off by one.

One key of many has a share `p` of about `1/n`, while the rounding errors of all together are about
`u/sqrt(n)` of a value's size: over long contexts a missing key is smaller than what rounding adds to a row.
But its error has a known direction. An output without key `j`, or with a `j` that it should not see, is off
by a multiple of `v_j - o`, nearly that of `v_j`, and the rounding of other keys has no reason to point
there. So the error of a row is projected onto `v_j`, and added up over the heads of a query with the
weights that show a common mistake best (a matched filter): the wrong key stands out `sqrt(head_dim *
num_q_heads)` times as far.

The noise of a projection is that of one element, and what rounding does to `p_j` itself: as in
`correctness/rounding_noise.py`, of size `u sqrt(2 + x_j^2 + X^2) p_j`, taken `SHARE_ROUNDOFFS` times.
This presumes values that are independent of each other, as the harness draws them.

Shape suffixes: B batch, H query heads, G key/value heads, S group_size, R query rows, N (S * R), D head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gqabench.attention_impls.correctness.chunked_formula import (
    FormulaChunk,
    capped,
    grouped_shape,
    read_back,
    ungrouped,
)
from gqabench.attention_impls.correctness.rounding_noise import typical_logit
from gqabench.attention_impls.dtypes import torch_dtype, unit_roundoff
from gqabench.attention_impls.parts.formulas.masks import key_ranges
from gqabench.attention_impls.problem import AttentionProblem

EDGES = ("the key before the first", "the first key", "the newest key", "the key after the newest")

SHARE_ROUNDOFFS = 3


@dataclass(frozen=True)
class EdgeKeys:
    """One edge of every row: which key it is, and how much of it a correct output holds, or would hold."""

    name: str
    v: torch.Tensor
    """`[B, G, K, D]`: all values, as the inputs hold them"""
    kv_dtype: str | None
    """In which the cache holds them; None: as they are"""
    position: torch.Tensor
    """`[B, R]`"""
    share: torch.Tensor
    """`[B, H, R]`: its probability, or where it is hidden that which it would get; 0 where there is none"""
    share_noise: torch.Tensor
    """`[B, H, R]`: what rounding may do to the share"""

    def deviations(self, sequence: int, error_HRD: torch.Tensor, noise_HR: torch.Tensor) -> torch.Tensor:
        """Return how far the heads' errors point at this key, in units of the noise.

        `[R]`, for one sequence. `error_HRD` is the output minus the reference, `noise_HR` the noise of one
        element.
        """
        v_GRD = self.v[sequence].index_select(1, self.position[sequence])
        v_GRD = read_back(v_GRD.flatten(0, 1), self.kv_dtype).view(v_GRD.shape).to(error_HRD.dtype)
        v_HRD = v_GRD.repeat_interleave(len(error_HRD) // len(v_GRD), dim=0)
        length2_HR = v_HRD.square().sum(-1)
        share_HR = self.share[sequence].to(error_HRD.dtype)
        share_noise_HR = self.share_noise[sequence].to(error_HRD.dtype)
        noise2_HR = noise_HR.square() + share_noise_HR.square() * length2_HR
        weight_HR = (share_HR / noise2_HR).nan_to_num(0, 0, 0)
        found_R = (weight_HR * (error_HRD * v_HRD).sum(-1)).sum(0).abs()
        noise_R = (weight_HR.square() * length2_HR * noise2_HR).sum(0).sqrt()
        return (found_R / noise_R).nan_to_num(0, 0, 0)


class EdgeCollector:
    """Collects the edges of a problem, chunk by chunk."""

    def __init__(
        self, problem: AttentionProblem, v_BGKD: torch.Tensor, query_rows: torch.Tensor | None
    ) -> None:
        first_BR, end_BR = key_ranges(problem, query_rows)
        sees_BR = first_BR < end_BR
        lengths_B1 = torch.tensor([problem.kv_len_of(b) for b in range(problem.batch_size)])[:, None]
        ends = (
            (first_BR - 1, sees_BR & (first_BR > 0)),
            (first_BR, sees_BR),
            (end_BR - 1, sees_BR),
            (end_BR, sees_BR & (end_BR < lengths_B1.to(end_BR.device))),
        )
        float32_part = (unit_roundoff(torch.float32) / unit_roundoff(torch_dtype(problem))) ** 2
        self._problem = problem
        self._typical_weight = 1 + problem.head_dim * float32_part
        self._v_BGKD = v_BGKD
        self._num_rows = first_BR.shape[1]
        self._positions = [position_BR.clamp(0, problem.kv_len - 1) for position_BR, _ in ends]
        self._exists = [exists_BR for _, exists_BR in ends]
        shape = (len(EDGES), *grouped_shape(problem, self._num_rows))
        self._shares = torch.zeros(shape, device=v_BGKD.device)
        self._share_noises = torch.zeros(shape, device=v_BGKD.device)

    def add(self, chunk: FormulaChunk) -> None:
        """Record how much of its edge keys each row of a chunk holds."""
        problem, roundoff = self._problem, unit_roundoff(torch_dtype(self._problem))
        log_sum_N = chunk.logits.logsumexp(-1)
        typical_N = typical_logit(problem, chunk)
        for edge, (position_BR, exists_BR) in enumerate(zip(self._positions, self._exists, strict=True)):
            position_N, exists_N = (
                x_BR[chunk.sequence].repeat(problem.group_size)[chunk.rows]
                for x_BR in (position_BR, exists_BR)
            )
            edge_k_ND = chunk.all_k.index_select(0, position_N).to(chunk.q.dtype)
            products_N = (chunk.q * edge_k_ND).sum(-1) * problem.scale
            logit_N = capped(problem, chunk.precision, products_N)
            is_hidden = edge in (0, 3)
            share_N = (logit_N - log_sum_N).sigmoid() if is_hidden else (logit_N - log_sum_N).exp()
            share_N = share_N.masked_fill(~exists_N, 0)
            self._shares[edge][chunk.place] = share_N
            sizes_N = (2 + logit_N.square() + self._typical_weight * typical_N.square()).sqrt()
            self._share_noises[edge][chunk.place] = SHARE_ROUNDOFFS * roundoff * share_N * sizes_N

    def edges(self) -> tuple[EdgeKeys, ...]:
        """Return the edges, in the order of `EDGES`, once all chunks were added."""
        return tuple(
            EdgeKeys(
                name,
                self._v_BGKD,
                self._problem.kv_dtype,
                position_BR,
                ungrouped(share, self._num_rows),
                ungrouped(noise, self._num_rows),
            )
            for name, position_BR, share, noise in zip(
                EDGES, self._positions, self._shares, self._share_noises, strict=True
            )
        )
