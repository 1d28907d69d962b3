"""FlashAttention-3 (Shah et al. 2024, arXiv 2407.08608), for Hopper GPUs: `flash_attn_interface`."""

from __future__ import annotations

from importlib import import_module

import torch

from gqabench.attention_impls.abilities import unquantised_reasons
from gqabench.attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from gqabench.attention_impls.parts.calls.cuda_peer import (
    cuda_peer_reasons,
    dead_row_reasons,
    keys_on_the_left,
)
from gqabench.attention_impls.parts.calls.flash_attn_kvcache import prepare_with_kvcache
from gqabench.attention_impls.parts.calls.packages import is_installed
from gqabench.attention_impls.problem import AttentionProblem

HOPPER = 9
MAX_HEAD_DIM = 256


class FlashAttn3(AttentionImpl):
    """`flash_attn_with_kvcache` for every phase, with its own choice of splits."""

    name = "flash_attn_3"
    devices = ("cuda",)
    extras = ("flash-attn-3",)
    reads_cache_in_place = False
    timed_call = TimedCall()

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        reasons = [
            *cuda_peer_reasons(problem, "flash_attn_interface", "flash-attn-3"),
            *unquantised_reasons(problem),
            *dead_row_reasons(problem),
        ]
        if problem.head_dim > MAX_HEAD_DIM or problem.head_dim % 8:
            reasons.append(f"head_dim={problem.head_dim}: must be a multiple of 8 of at most {MAX_HEAD_DIM}")
        reasons += _left_out_reasons(problem)
        if not reasons and torch.cuda.get_device_capability(problem.device)[0] != HOPPER:
            reasons.append(f"device={problem.device}: FlashAttention-3 is for CUDA devices of capability 9.0")
        return reasons

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        from flash_attn_interface import flash_attn_with_kvcache

        return prepare_with_kvcache(problem, inputs, flash_attn_with_kvcache, "page_table")


def _left_out_reasons(problem: AttentionProblem) -> list[str]:
    """Return the needed parts that this build of FlashAttention-3 left out, by its `flash_attn_config`."""
    if not is_installed("flash_attn_config"):
        return []
    flags = import_module("flash_attn_config").CONFIG["build_flags"]
    needed = {
        "SOFTCAP": ("logits_soft_cap", problem.logits_soft_cap is not None),
        "LOCAL": ("window", keys_on_the_left(problem) >= 0),
        "PAGEDKV": ("page_size", problem.page_size is not None),
        "FP16": ("dtype", problem.dtype == "float16"),
    }
    return [
        f"{key}={getattr(problem, key)}: this build of FlashAttention-3 has FLASHATTENTION_DISABLE_{part}"
        for part, (key, is_needed) in needed.items()
        if is_needed and flags.get(f"FLASHATTENTION_DISABLE_{part}", False)
    ]
