"""FlexAttention (Dong et al. 2024, arXiv 2412.05496): mask and soft cap compiled into the kernel.

Shape suffixes: B batch, H query heads, G key/value heads, Q q_len, K kv_len, D head_dim.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Callable

import torch
from torch.nn.attention.flex_attention import flex_attention

from attention_impls.abilities import device_reasons, plain_cache_reasons
from attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from attention_impls.flex_block_mask import flex_block_mask
from attention_impls.problem import AttentionProblem

MAX_COMPILED_PROBLEMS = 1024
"""Problems that one process may compile. By default `torch.compile` stops at 8 variants of one function. That
suits functions whose arguments vary; here each variant is a problem of its own."""

MIN_HEAD_DIM_ON_CUDA = 16
"""`torch/_inductor/kernel/flex/flex_attention.py`: "NYI: embedding dimension ... must be at least 16"."""

ScoreMod = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Flex(AttentionImpl):
    """`flex_attention(enable_gqa=True)`, compiled in `prepare` for the static shapes of the problem.

    Call it in the grad mode that it was prepared in (`torch.inference_mode()` or not), lest it compile anew.
    On CUDA, `q_len < 128` and a power-of-two group get its split-KV decode kernel, others its general one.
    """

    name = "flex"
    compiles_each_problem = True
    timed_call = TimedCall()

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        reasons = [*device_reasons(problem), *plain_cache_reasons(problem)]
        if problem.device_type == "cpu":
            return reasons + _cpu_compiler_reasons()
        if problem.head_dim < MIN_HEAD_DIM_ON_CUDA:
            reasons.append(
                f"head_dim={problem.head_dim}: flex_attention on CUDA needs {MIN_HEAD_DIM_ON_CUDA} or more"
            )
        if importlib.util.find_spec("triton") is None:
            reasons.append("flex_attention on CUDA is compiled by Triton, which is not installed")
        return reasons

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        block_mask = flex_block_mask(problem)
        score_mod = None if problem.logits_soft_cap is None else _soft_cap(problem.logits_soft_cap)

        def attend(q_BHQD: torch.Tensor, k_BGKD: torch.Tensor, v_BGKD: torch.Tensor) -> torch.Tensor:
            output_BHQD = flex_attention(
                q_BHQD,
                k_BGKD,
                v_BGKD,
                score_mod=score_mod,
                block_mask=block_mask,
                scale=problem.scale,
                enable_gqa=problem.group_size != 1,
            )
            assert isinstance(output_BHQD, torch.Tensor)
            return output_BHQD

        # fullgraph: whatever cannot be compiled is an error, never run uncompiled instead.
        compiled = torch.compile(attend, fullgraph=True, dynamic=False)
        started = time.perf_counter()
        with torch._dynamo.config.patch(recompile_limit=MAX_COMPILED_PROBLEMS):
            compiled(inputs.q, inputs.k, inputs.v)
        return PreparedAttention(
            run=lambda: compiled(inputs.q, inputs.k, inputs.v),
            kv_cache_bytes=inputs.k.nbytes + inputs.v.nbytes,
            compile_ms=(time.perf_counter() - started) * 1e3,
        )


def _soft_cap(cap: float) -> ScoreMod:
    def score_mod(
        score: torch.Tensor, b: torch.Tensor, h: torch.Tensor, q_index: torch.Tensor, k_index: torch.Tensor
    ) -> torch.Tensor:
        return cap * torch.tanh(score / cap)

    return score_mod


def _cpu_compiler_reasons() -> list[str]:
    """Why `flex_attention` cannot be compiled for this CPU."""
    reasons = []
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        reasons.append(
            f"flex_attention is compiled on a CPU: no C++ compiler {compiler} on PATH (CXX names another)"
        )
    capability = torch.backends.cpu.get_cpu_capability()
    if not capability.startswith("AVX"):
        reasons.append(f"flex_attention on a CPU needs AVX2; PyTorch runs this one as {capability}")
    return reasons
