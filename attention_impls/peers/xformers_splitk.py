"""xFormers' Triton split-K decode kernel, `xformers.ops.fmha.triton_splitk`.

Shape suffixes: B batch, G key/value heads, S group_size, D head_dim, T tokens of all sequences.
"""

from __future__ import annotations

from typing import Any

import torch

from gqabench.attention_impls.abilities import plain_cache_reasons
from gqabench.attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from gqabench.attention_impls.parts.calls.cuda_peer import (
    cuda_peer_reasons,
    decode_only_reasons,
    keys_on_the_left,
    tokens_first,
)
from gqabench.attention_impls.problem import AttentionProblem

HEAD_DIMS = (16, 32, 64, 128, 256, 512)
"""`FwOp.shape_not_supported_reasons` of xformers/ops/fmha/triton_splitk.py."""


class XformersSplitk(AttentionImpl):
    """Grouped heads as `[1, T, G, S, D]`, with K and V of a group expanded by a stride of 0: not copied.

    The kernel is Triton's, but `memory_efficient_attention_forward` refuses it where xFormers' C++ half,
    which is for one version of PyTorch, does not load. So the operator is called itself.
    """

    name = "xformers_splitk"
    devices = ("cuda",)
    extras = ("xformers",)
    reads_cache_in_place = False
    timed_call = TimedCall()

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        reasons = [
            *cuda_peer_reasons(problem, "xformers", "xformers"),
            *plain_cache_reasons(problem),
            *decode_only_reasons(problem),
        ]
        if problem.logits_soft_cap is not None:
            reasons.append(f"logits_soft_cap={problem.logits_soft_cap}: the kernel has no soft cap")
        if problem.head_dim not in HEAD_DIMS:
            reasons.append(f"head_dim={problem.head_dim}: must be one of {', '.join(map(str, HEAD_DIMS))}")
        return reasons

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        from xformers.ops import fmha

        k_TGD, v_TGD = (tokens_first(x).flatten(0, 1) for x in (inputs.k, inputs.v))
        groups = (1, -1, problem.num_kv_heads, problem.group_size, problem.head_dim)
        k_1TGSD, v_1TGSD = (x[None, :, :, None].expand(groups) for x in (k_TGD, v_TGD))
        bias = _bias(problem)

        def run() -> torch.Tensor:
            q_1BGSD = inputs.q.view(1, problem.batch_size, *groups[2:])
            call = fmha.Inputs(q_1BGSD, k_1TGSD, v_1TGSD, attn_bias=bias, scale=problem.scale)
            output: torch.Tensor = fmha.triton_splitk.FwOp.apply(call, needs_gradient=False)[0]
            return output.reshape(inputs.q.shape)

        return PreparedAttention(run, k_TGD.nbytes + v_TGD.nbytes)


def _bias(problem: AttentionProblem) -> Any:
    """Return which keys of its sequence the last token sees: all that exist, or those of the window."""
    from xformers.ops.fmha import attn_bias

    lengths = [problem.kv_len_of(sequence) for sequence in range(problem.batch_size)]
    tokens = ([1] * problem.batch_size, problem.kv_len, lengths)
    if keys_on_the_left(problem) < 0:
        kind = attn_bias.BlockDiagonalCausalWithOffsetPaddedKeysMask
        return kind.from_seqlens(*tokens, device=torch.device(problem.device))
    bias = attn_bias.BlockDiagonalCausalLocalAttentionPaddedKeysMask.from_seqlens_local(
        *tokens, window_size=problem.window
    )
    return bias.to(torch.device(problem.device))
