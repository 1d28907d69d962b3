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

Shape suffixes: E edges, B batch, H query heads, G key/value heads, S group_size, R query rows (r: some of
them), K keys, N (S * R), D head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gqabench.attention_impls.correctness.chunked_formula import (
    MAX_CHUNK_ELEMENTS,
    FormulaChunk,
    capped,
    grouped_shape,
    read_back,
)
from gqabench.attention_impls.correctness.rounding_noise import typical_logit
from gqabench.attention_impls.dtypes import torch_dtype, unit_roundoff
from gqabench.attention_impls.parts.formulas.masks import key_ranges
from gqabench.attention_impls.problem import AttentionProblem

EDGES = ("the key before the first", "the first key", "the newest key", "the key after the newest")

SHARE_ROUNDOFFS = 3


@dataclass(frozen=True)
class EdgeKeys:
    """The edges of every row: which keys they are, and how much of each an output should hold, or would."""

    v: torch.Tensor
    """`[B, G, K, D]`: all values, as the inputs hold them"""
    kv_dtype: str | None
    """In which the cache holds them; None: as they are"""
    position: torch.Tensor
    """`[E, B, R]`"""
    share: torch.Tensor
    """`[E, B, G, N]`: its probability, or where it is hidden what it would be; 0 where there is none"""
    share_noise: torch.Tensor
    """`[E, B, G, N]`: what rounding may do to the share"""

    def filters(self, noise_BHR: torch.Tensor) -> EdgeFilters:
        """Return what finds these keys in errors whose elements have the given noise."""
        num_edges, batch_size, num_rows = self.position.shape
        num_groups = self.v.shape[1]
        group_size = noise_BHR.shape[1] // num_groups
        shape = (batch_size, num_groups, num_rows, group_size, num_edges)
        weight_BGRSE = torch.empty(shape, dtype=noise_BHR.dtype, device=noise_BHR.device)
        filters = EdgeFilters(self.v, self.kv_dtype, self.position, weight_BGRSE)
        for sequence in range(batch_size):
            noise_GRS1 = noise_BHR[sequence].view(num_groups, group_size, num_rows).mT[..., None]
            share_GRSE, share_noise_GRSE = (
                x_EBGN[:, sequence].view(num_edges, num_groups, group_size, num_rows).permute(1, 3, 2, 0)
                for x_EBGN in (self.share, self.share_noise)
            )
            for rows in filters.row_chunks():
                length2_GrE = filters.values(sequence, rows, noise_BHR.dtype).square().sum(-1)
                weight_BGRSE[sequence, :, rows] = _matched_filter(
                    share_GRSE[:, rows].to(noise_BHR.dtype),
                    share_noise_GRSE[:, rows].to(noise_BHR.dtype),
                    noise_GRS1[:, rows],
                    length2_GrE[:, :, None],
                )
        return filters


def _matched_filter(
    share: torch.Tensor, share_noise: torch.Tensor, noise: torch.Tensor, length2: torch.Tensor
) -> torch.Tensor:
    """Return the weights `[G, R, S, E]` that show a wrong share best, in units of the noise of their sum."""
    noise2 = noise.square() + share_noise.square() * length2
    weight = (share / noise2).nan_to_num(0, 0, 0)
    sum_noise = (weight.square() * length2 * noise2).sum((0, 2), keepdim=True).sqrt()
    return (weight / sum_noise).nan_to_num(0, 0, 0)


@dataclass(frozen=True)
class EdgeFilters:
    """What finds a wrong edge key in the error of an output."""

    v: torch.Tensor
    kv_dtype: str | None
    position: torch.Tensor
    weight: torch.Tensor
    """`[B, G, R, S, E]`: of a head's projection onto the key's value, in units of the noise of their sum"""

    def largest_deviations(self, sequence: int, error_HRD: torch.Tensor) -> dict[str, float]:
        """Return how far the heads' errors point at each edge key, in the row where they do so most.

        In units of the noise, by the edge's name. `error_HRD` is the output minus the reference.
        """
        weight_GRSE = self.weight[sequence]
        error_GSRD = error_HRD.view(weight_GRSE.shape[0], weight_GRSE.shape[2], *error_HRD.shape[1:])
        largest_E = weight_GRSE.new_zeros(len(EDGES))
        for rows in self.row_chunks():
            v_GrED = self.values(sequence, rows, error_HRD.dtype)
            projected_GrSE = error_GSRD[:, :, rows].transpose(1, 2) @ v_GrED.mT
            deviation_rE = (projected_GrSE * weight_GRSE[:, rows]).sum((0, 2)).abs()
            largest_E = torch.maximum(largest_E, deviation_rE.amax(0))
        return dict(zip(EDGES, largest_E.cpu().tolist(), strict=True))

    def row_chunks(self) -> list[slice]:
        """Divide the rows so that temporaries of one sequence stay as small as the formula's."""
        _, num_groups, num_rows, group_size, _ = self.weight.shape
        elements = num_groups * max(group_size, len(EDGES)) * self.v.shape[3]
        step = max(MAX_CHUNK_ELEMENTS // elements, 1)
        return [slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]

    def values(self, sequence: int, rows: slice, dtype: torch.dtype) -> torch.Tensor:
        """Return the values of some rows' edge keys, `[G, R, E, D]`, as the cache returns them."""
        position_RE = self.position[:, sequence, rows].mT
        v_GND = self.v[sequence].index_select(1, position_RE.flatten())
        held_ND = read_back(v_GND.flatten(0, 1), self.kv_dtype)
        return held_ND.view(len(v_GND), *position_RE.shape, held_ND.shape[-1]).to(dtype)


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
        self._position_EBR = torch.stack([position.clamp(0, problem.kv_len - 1) for position, _ in ends])
        self._exists_EBR = torch.stack([exists for _, exists in ends])
        self._is_hidden_E1 = torch.tensor([[True], [False], [False], [True]], device=v_BGKD.device)
        shape = (len(EDGES), *grouped_shape(problem, self._num_rows))
        self._share_EBGN = torch.zeros(shape, device=v_BGKD.device)
        self._share_noise_EBGN = torch.zeros(shape, device=v_BGKD.device)

    def add(self, chunk: FormulaChunk) -> None:
        """Record how much of its edge keys each row of a chunk holds."""
        problem, roundoff = self._problem, unit_roundoff(torch_dtype(self._problem))
        position_EN, exists_EN = (
            x_EBR[:, chunk.sequence].repeat(1, problem.group_size)[:, chunk.rows]
            for x_EBR in (self._position_EBR, self._exists_EBR)
        )
        products_EN = torch.stack([self._products(chunk, position_N) for position_N in position_EN])
        logit_EN = capped(problem, chunk.precision, products_EN * problem.scale)
        excess_EN = logit_EN - chunk.logits.logsumexp(-1)
        share_EN = torch.where(self._is_hidden_E1, excess_EN.sigmoid(), excess_EN.exp())
        share_EN = share_EN.masked_fill_(~exists_EN, 0)
        typical_N = typical_logit(problem, chunk)
        size_EN = (2 + logit_EN.square() + self._typical_weight * typical_N.square()).sqrt()
        self._share_EBGN[:, *chunk.place] = share_EN
        self._share_noise_EBGN[:, *chunk.place] = SHARE_ROUNDOFFS * roundoff * share_EN * size_EN

    @staticmethod
    def _products(chunk: FormulaChunk, position_N: torch.Tensor) -> torch.Tensor:
        return (chunk.q * chunk.all_k.index_select(0, position_N).to(chunk.q.dtype)).sum(-1)

    def edges(self) -> EdgeKeys:
        """Return the edges once all chunks were added."""
        return EdgeKeys(
            self._v_BGKD,
            self._problem.kv_dtype,
            self._position_EBR,
            self._share_EBGN,
            self._share_noise_EBGN,
        )
