"""FlashInfer's XQA kernel, NVIDIA's decode kernel for grouped heads; it needs no plan."""

from __future__ import annotations

import torch

from gqabench.attention_impls.abilities import unquantised_reasons
from gqabench.attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from gqabench.attention_impls.parts.calls.cuda_peer import (
    cuda_peer_reasons,
    decode_only_reasons,
    keys_on_the_left,
    lengths_on_device,
)
from gqabench.attention_impls.parts.calls.flashinfer_pages import FlashinferPages, workspace
from gqabench.attention_impls.problem import AttentionProblem

PAGE_SIZES = (16, 32, 64, 128)
MAX_HEAD_DIM = 256
"""`gen_xqa_module` of flashinfer/jit/xqa.py: a multiple of 16 of at most 256."""
MAX_GROUP_SIZE = 32
"""The kernel is compiled for the group: for 33 a static assertion of csrc/xqa/utils.cuh fails."""
CAPABILITIES = (9, 10, 12)
"""`xqa` of flashinfer/xqa.py: the first numbers of the compute capabilities that it has kernels for."""


class FlashinferXqa(AttentionImpl):
    """`xqa_batch_decode_with_kv_cache` over pages."""

    name = "flashinfer_xqa"
    devices = ("cuda",)
    extras = ("flashinfer",)
    reads_cache_in_place = False
    compiles_each_problem = True
    timed_call = TimedCall()

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        reasons = [
            *cuda_peer_reasons(problem, "flashinfer", "flashinfer"),
            *unquantised_reasons(problem),
            *decode_only_reasons(problem),
        ]
        if problem.logits_soft_cap is not None:
            reasons.append(f"logits_soft_cap={problem.logits_soft_cap}: XQA has no soft cap")
        if problem.page_size not in (None, *PAGE_SIZES):
            sizes = ", ".join(map(str, PAGE_SIZES))
            reasons.append(f"page_size={problem.page_size}: must be one of {sizes}")
        if problem.head_dim > MAX_HEAD_DIM or problem.head_dim % 16:
            reasons.append(f"head_dim={problem.head_dim}: must be a multiple of 16 of at most {MAX_HEAD_DIM}")
        if problem.group_size > MAX_GROUP_SIZE:
            reasons.append(
                f"num_kv_heads={problem.num_kv_heads}: XQA supports groups of at most {MAX_GROUP_SIZE}, not"
                f" {problem.group_size}"
            )
        if not reasons and torch.cuda.get_device_capability(problem.device)[0] not in CAPABILITIES:
            majors = ", ".join(f"{major}.x" for major in CAPABILITIES)
            reasons.append(f"device={problem.device}: XQA is for CUDA devices of capability {majors}")
        return reasons

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        from flashinfer.decode import xqa_batch_decode_with_kv_cache

        pages = FlashinferPages.of(problem, inputs)
        scratch = workspace(problem)
        lengths_B = lengths_on_device(problem)

        def run() -> torch.Tensor:
            output_BHD: torch.Tensor = xqa_batch_decode_with_kv_cache(
                inputs.q[:, :, 0],
                pages.pools,
                scratch,
                pages.cache.page_table,
                lengths_B,
                problem.kv_len,
                bmm1_scale=problem.scale,
                window_left=keys_on_the_left(problem),
            )
            return output_BHD[:, :, None]

        run()  # compiles the kernel where FlashInfer has none yet
        return PreparedAttention(run, pages.cache.nbytes)
