"""FlashAttention-4, the CuTe DSL version: `flash_attn.cute` of the package flash-attn-4.

Shape suffixes: B batch, H query heads, G key/value heads, Q q_len, K kv_len, D head_dim.
"""

from __future__ import annotations

import torch

from gqabench.attention_impls.abilities import plain_cache_reasons
from gqabench.attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from gqabench.attention_impls.parts.calls.cuda_peer import (
    cuda_peer_reasons,
    looks_back_only,
    token_first_cache,
)
from gqabench.attention_impls.parts.calls.packages import is_installed, package_version
from gqabench.attention_impls.problem import AttentionProblem

COMPILER = ("cutlass", "quack")
"""What it makes its kernels with: nvidia-cutlass-dsl and quack-kernels, which pip brings along."""
MAX_HEAD_DIM = 256
"""On capability 9.0; `_validate_head_dims` of flash_attn/cute/interface.py."""


class FlashAttn4(AttentionImpl):
    """`flash_attn_func`, for prefill and extend: on capability 9.0 it has no split-KV, so decode starves."""

    name = "flash_attn_4"
    devices = ("cuda",)
    extras = ("flash-attn-4",)
    reads_cache_in_place = False
    compiles_each_problem = True
    timed_call = TimedCall()

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        # The package puts `cute` into the namespace of flash-attn, so only its distribution shows it.
        reasons = [*cuda_peer_reasons(problem, "torch", "flash-attn-4"), *plain_cache_reasons(problem)]
        if package_version("flash-attn-4") is None:
            reasons.append(
                "the package flash-attn-4 is not installed: pip install --pre 'flash-attn-4>=4.0.0b1'"
            )
        reasons += [
            f"the package {name} is not installed: flash-attn-4 needs it" for name in _missing_compiler()
        ]
        if problem.head_dim > MAX_HEAD_DIM or problem.head_dim % 8:
            reasons.append(f"head_dim={problem.head_dim}: must be a multiple of 8 of at most {MAX_HEAD_DIM}")
        if problem.is_ragged:
            reasons.append(f"kv_lens={list(problem.kv_lens or ())}: it needs sequences of one length")
        if problem.q_len == 1:
            reasons.append("q_len=1: it has no split-KV on capability 9.0; for prefill and extend only")
        return reasons

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        from flash_attn.cute import flash_attn_func

        k_BKGD, v_BKGD = token_first_cache(inputs)
        is_causal = looks_back_only(problem)
        left = None if problem.window is None else problem.window - 1
        options = {
            "softmax_scale": problem.scale,
            "causal": is_causal and left is None,
            "window_size": (left, 0 if left is not None else None),
            "softcap": problem.logits_soft_cap or 0.0,
        }

        def run() -> torch.Tensor:
            output = flash_attn_func(inputs.q.transpose(1, 2), k_BKGD, v_BKGD, **options)
            output_BQHD: torch.Tensor = output[0] if isinstance(output, tuple) else output
            return output_BQHD.transpose(1, 2)

        return PreparedAttention(run, k_BKGD.nbytes + v_BKGD.nbytes)


def _missing_compiler() -> list[str]:
    if package_version("flash-attn-4") is None:
        return []
    return [name for name in COMPILER if not is_installed(name)]
