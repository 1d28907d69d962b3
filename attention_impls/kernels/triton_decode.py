"""Our decode kernel: split-KV attention in Triton, a whole group sharing one pass over K and V."""

from __future__ import annotations

import time

from gqabench.attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from gqabench.attention_impls.kernels.triton.device import (
    is_interpreted,
    most_head_dim_reasons,
    triton_reasons,
)
from gqabench.attention_impls.problem import AttentionProblem

MAX_Q_LEN = 16
"""New tokens of one call: a decode step, or the few that speculative decoding verifies."""


class TritonDecode(AttentionImpl):
    """Split-KV decode in one launch. `docs/kernels.md` explains how it works and what limits it.

    A contiguous cache in `dtype` is read in place; a quantised or paged one is a copy made by `prepare`.

    Under `TRITON_INTERPRET=1` it also runs on a CPU, through Triton's interpreter, untuned: for tests of
    correctness. The record's `kernel_config` says so.
    """

    name = "triton_decode"
    devices = ("cuda",)
    compiles_each_problem = True
    timed_call = TimedCall()

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        reasons = [*triton_reasons(problem), *most_head_dim_reasons(problem)]
        if problem.q_len > MAX_Q_LEN:
            reasons.append(f"q_len={problem.q_len}: supports at most {MAX_Q_LEN} new tokens, as in decoding")
        return reasons

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        from gqabench.attention_impls.kernels.triton.decode_launch import DecodeCache, DecodeLaunch
        from gqabench.attention_impls.kernels.triton.decode_tuning import choose_decode

        cache = DecodeCache.of(problem, inputs)
        choice = choose_decode(problem, inputs, cache)
        planned = time.perf_counter()
        launch = DecodeLaunch(problem, inputs, cache, choice.config)
        compiling = time.perf_counter()
        launch()
        compiled = time.perf_counter()
        num_splits = max(launch.schedule.num_parts)
        return PreparedAttention(
            run=launch,
            kv_cache_bytes=cache.nbytes,
            compile_ms=None if is_interpreted() else (compiled - compiling) * 1e3,
            autotune_ms=choice.autotune_ms,
            plan_ms=(compiling - planned) * 1e3,
            kernel_config=choice.describe(num_splits=num_splits, workspace_bytes=launch.workspace_bytes),
        )
