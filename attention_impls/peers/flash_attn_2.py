"""FlashAttention-2 (Dao 2023, arXiv 2307.08691), the package flash-attn."""

from __future__ import annotations

from gqabench.attention_impls.abilities import unquantised_reasons
from gqabench.attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from gqabench.attention_impls.parts.calls.cuda_peer import cuda_peer_reasons, dead_row_reasons
from gqabench.attention_impls.parts.calls.flash_attn_kvcache import prepare_with_kvcache
from gqabench.attention_impls.problem import AttentionProblem

MAX_HEAD_DIM = 256
PAGE_MULTIPLE = 256
"""`csrc/flash_attn/flash_api.cpp`: "Paged KV cache block size must be divisible by 256"."""


class FlashAttn2(AttentionImpl):
    """`flash_attn_with_kvcache` for every phase: split-KV, with the group folded into the queries."""

    name = "flash_attn_2"
    devices = ("cuda",)
    extras = ("flash-attn-2",)
    reads_cache_in_place = False
    timed_call = TimedCall()

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        reasons = [
            *cuda_peer_reasons(problem, "flash_attn_2_cuda", "flash-attn-2"),
            *unquantised_reasons(problem),
            *dead_row_reasons(problem),
        ]
        if problem.head_dim > MAX_HEAD_DIM or problem.head_dim % 8:
            reasons.append(f"head_dim={problem.head_dim}: must be a multiple of 8 of at most {MAX_HEAD_DIM}")
        if problem.page_size is not None and problem.page_size % PAGE_MULTIPLE:
            reasons.append(f"page_size={problem.page_size}: must be a multiple of {PAGE_MULTIPLE}")
        return reasons

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        from flash_attn import flash_attn_with_kvcache

        return prepare_with_kvcache(problem, inputs, flash_attn_with_kvcache, "block_table")
