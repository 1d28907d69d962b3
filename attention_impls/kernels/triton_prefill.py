"""Our prefill and extend kernel: attention in Triton, the heads of a group in one block of rows."""

from __future__ import annotations

import time

from gqabench.attention_impls.abilities import plain_cache_reasons
from gqabench.attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from gqabench.attention_impls.kernels.triton.device import (
    is_interpreted,
    most_head_dim_reasons,
    triton_reasons,
)
from gqabench.attention_impls.problem import AttentionProblem


class TritonPrefill(AttentionImpl):
    """Attention for many new tokens, which is limited by arithmetic, not by reads. See `docs/kernels.md`.

    Under `TRITON_INTERPRET=1` it also runs on a CPU, through Triton's interpreter, untuned: for tests of
    correctness. The record's `kernel_config` says so.
    """

    name = "triton_prefill"
    devices = ("cuda",)
    compiles_each_problem = True
    timed_call = TimedCall(num_launches=1)

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        reasons = [
            *triton_reasons(problem), *plain_cache_reasons(problem), *most_head_dim_reasons(problem),
        ]  # fmt: skip
        if problem.q_len == 1:
            reasons.append("q_len=1: for prefill and extend only; use triton_decode for a decode step")
        return reasons

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        from gqabench.attention_impls.kernels.triton.prefill_launch import PrefillLaunch, choose_prefill

        choice = choose_prefill(problem, inputs)
        launch = PrefillLaunch(problem, inputs, choice.config)
        started = time.perf_counter()
        launch()
        return PreparedAttention(
            run=launch,
            kv_cache_bytes=inputs.k.nbytes + inputs.v.nbytes,
            compile_ms=None if is_interpreted() else (time.perf_counter() - started) * 1e3,
            autotune_ms=choice.autotune_ms,
            kernel_config=choice.describe(),
        )
