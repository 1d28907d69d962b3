"""FlashInfer's batch prefill over a paged cache; `plan` is in `prepare`, and its time in `plan_ms`.

Shape suffixes: H query heads, D head_dim, T new tokens of all sequences.
"""

from __future__ import annotations

from functools import partial

import torch

from gqabench.attention_impls.abilities import unquantised_reasons
from gqabench.attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from gqabench.attention_impls.dtypes import torch_dtype
from gqabench.attention_impls.parts.calls.cuda_peer import (
    dead_row_reasons,
    keys_on_the_left,
    looks_back_only,
    starts_on_device,
)
from gqabench.attention_impls.parts.calls.flashinfer_pages import (
    FlashinferPages,
    flashinfer_reasons,
    planned_in_ms,
    workspace,
)
from gqabench.attention_impls.problem import AttentionProblem


class FlashinferPrefill(AttentionImpl):
    """`BatchPrefillWithPagedKVCacheWrapper` for several new tokens, with FlashInfer's choice of kernel."""

    name = "flashinfer_prefill"
    devices = ("cuda",)
    extras = ("flashinfer",)
    reads_cache_in_place = False
    compiles_each_problem = True
    timed_call = TimedCall()

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        reasons = [
            *flashinfer_reasons(problem),
            *unquantised_reasons(problem),
            *dead_row_reasons(problem),
        ]
        if problem.q_len == 1:
            reasons.append("q_len=1: use flashinfer_decode for one new token")
        return reasons

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        from flashinfer import BatchPrefillWithPagedKVCacheWrapper

        pages = FlashinferPages.of(problem, inputs)
        wrapper = BatchPrefillWithPagedKVCacheWrapper(workspace(problem), "NHD")
        plan = partial(
            wrapper.plan,
            starts_on_device([problem.q_len] * problem.batch_size, problem.device),
            pages.starts,
            pages.pages,
            pages.last_page_lengths,
            problem.num_q_heads,
            problem.num_kv_heads,
            problem.head_dim,
            pages.cache.page_size,
            causal=looks_back_only(problem),
            sm_scale=problem.scale,
            window_left=keys_on_the_left(problem),
            logits_soft_cap=problem.logits_soft_cap,
            q_data_type=torch_dtype(problem),
            kv_data_type=torch_dtype(problem),
        )
        plan_ms = planned_in_ms(plan)

        def run() -> torch.Tensor:
            q_THD = inputs.q.transpose(1, 2).reshape(-1, problem.num_q_heads, problem.head_dim)
            # Without `out` it fills one with zeros first, which takes a kernel of its own.
            output_THD: torch.Tensor = wrapper.run(q_THD, pages.pools, out=torch.empty_like(q_THD))
            return output_THD.view(problem.batch_size, problem.q_len, *q_THD.shape[1:]).transpose(1, 2)

        return PreparedAttention(run, pages.cache.nbytes, plan_ms=plan_ms)
