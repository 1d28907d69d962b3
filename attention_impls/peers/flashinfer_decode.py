"""FlashInfer's batch decode over a paged cache; `plan` is in `prepare`, and its time in `plan_ms`."""

from __future__ import annotations

from functools import partial

import torch

from gqabench.attention_impls.abilities import unquantised_reasons
from gqabench.attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from gqabench.attention_impls.dtypes import torch_dtype
from gqabench.attention_impls.parts.calls.cuda_peer import decode_only_reasons, keys_on_the_left
from gqabench.attention_impls.parts.calls.flashinfer_pages import (
    FlashinferPages,
    flashinfer_reasons,
    planned_in_ms,
    workspace,
)
from gqabench.attention_impls.problem import AttentionProblem

MIN_GROUP_FOR_TENSOR_CORES = 4
"""From this group size on FlashInfer's authors advise tensor cores for decoding."""
BACKEND = "fa2"
"""`auto` picks fa3 on Hopper, which decodes slower: flashinfer-ai/flashinfer#2400."""


class FlashinferDecode(AttentionImpl):
    """`BatchDecodeWithPagedKVCacheWrapper`, on tensor cores where the group fills them."""

    name = "flashinfer_decode"
    devices = ("cuda",)
    extras = ("flashinfer",)
    reads_cache_in_place = False
    compiles_each_problem = True
    timed_call = TimedCall()

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        return [
            *flashinfer_reasons(problem),
            *unquantised_reasons(problem),
            *decode_only_reasons(problem),
        ]

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        from flashinfer import BatchDecodeWithPagedKVCacheWrapper

        pages = FlashinferPages.of(problem, inputs)
        wrapper = BatchDecodeWithPagedKVCacheWrapper(
            workspace(problem),
            "NHD",
            use_tensor_cores=problem.group_size >= MIN_GROUP_FOR_TENSOR_CORES,
            backend=BACKEND,
        )
        plan = partial(
            wrapper.plan,
            pages.starts,
            pages.pages,
            pages.last_page_lengths,
            problem.num_q_heads,
            problem.num_kv_heads,
            problem.head_dim,
            pages.cache.page_size,
            q_data_type=torch_dtype(problem),
            kv_data_type=torch_dtype(problem),
            sm_scale=problem.scale,
            window_left=keys_on_the_left(problem),
            logits_soft_cap=problem.logits_soft_cap,
        )
        plan_ms = planned_in_ms(plan)

        def run() -> torch.Tensor:
            output_BHD: torch.Tensor = wrapper.run(inputs.q[:, :, 0], pages.pools)
            return output_BHD[:, :, None]

        return PreparedAttention(run, pages.cache.nbytes, plan_ms=plan_ms)
