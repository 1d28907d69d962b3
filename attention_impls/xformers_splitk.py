"""xFormers' Triton split-K decode kernel, `xformers.ops.fmha.triton_splitk`.

Shape suffixes: B batch, G key/value heads, S group_size, K kv_len, D head_dim, T tokens of all sequences.
"""

from __future__ import annotations

import torch

from attention_impls.abilities import no_soft_cap_reasons, plain_cache_reasons
from attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from attention_impls.libraries.cuda_peer import (
    cuda_peer_reasons,
    decode_only_reasons,
    tokens_first,
    window_reasons,
)
from attention_impls.problem import AttentionProblem


class XformersSplitk(AttentionImpl):
    """Grouped heads as `[1, T, G, S, D]`, with K and V of a group expanded by a stride of 0: not copied."""

    name = "xformers_splitk"
    reads_cache_in_place = False
    timed_call = TimedCall()

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        return [
            *cuda_peer_reasons(problem, "xformers", "xformers"),
            *plain_cache_reasons(problem),
            *no_soft_cap_reasons(problem),
            *decode_only_reasons(problem),
            *window_reasons(problem),
        ]

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        from xformers.ops import fmha
        from xformers.ops.fmha.attn_bias import BlockDiagonalCausalWithOffsetPaddedKeysMask

        k_TGD, v_TGD = (tokens_first(x).flatten(0, 1) for x in (inputs.k, inputs.v))
        groups = (1, -1, problem.num_kv_heads, problem.group_size, problem.head_dim)
        k_1TGSD, v_1TGSD = (x[None, :, :, None].expand(groups) for x in (k_TGD, v_TGD))
        bias = BlockDiagonalCausalWithOffsetPaddedKeysMask.from_seqlens(
            q_seqlen=[1] * problem.batch_size,
            kv_padding=problem.kv_len,
            kv_seqlen=[problem.kv_len_of(sequence) for sequence in range(problem.batch_size)],
            device=torch.device(problem.device),
        )

        def run() -> torch.Tensor:
            output_1TGSD: torch.Tensor = fmha.memory_efficient_attention_forward(
                inputs.q.view(1, problem.batch_size, *groups[2:]),
                k_1TGSD,
                v_1TGSD,
                attn_bias=bias,
                scale=problem.scale,
                op=fmha.triton_splitk.FwOp,
            )
            return output_1TGSD.reshape(inputs.q.shape)

        return PreparedAttention(run, k_TGD.nbytes + v_TGD.nbytes)
