"""One prefill call: how the kernel is built for a problem, timed if it can be, and launched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from gqabench.attention_impls.contract import AttentionInputs
from gqabench.attention_impls.dtypes import torch_dtype
from gqabench.attention_impls.kernels.triton.cold_timer import cold_milliseconds
from gqabench.attention_impls.kernels.triton.decode_config import block_dims_of
from gqabench.attention_impls.kernels.triton.device import is_interpreted
from gqabench.attention_impls.kernels.triton.interpreter import patch_interpreter
from gqabench.attention_impls.kernels.triton.logit_scales import logit_scales
from gqabench.attention_impls.kernels.triton.prefill_kernel import prefill_kernel
from gqabench.attention_impls.kernels.triton.tuning import Choice, choose, tuning_key
from gqabench.attention_impls.problem import AttentionProblem

patch_interpreter()


@dataclass(frozen=True)
class PrefillConfig:
    """One way to build the prefill kernel."""

    block_m: int
    """Rows of a program: queries of a whole group"""
    block_n: int
    """Keys of a tile"""
    num_warps: int
    num_stages: int


def prefill_candidates(problem: AttentionProblem) -> list[PrefillConfig]:
    """Return tiles worth trying; the first is the default where nothing is timed.

    FlashAttention-2 and -3 use 128 rows and two warp groups on Hopper. In float32, products are
    multiply-adds, whose operands fill the registers at far smaller tiles.
    """
    if problem.dtype == "float32":
        return [PrefillConfig(16, 16, 8, 2), PrefillConfig(32, 16, 8, 2)]
    if block_dims_of(problem) > 128:
        return [PrefillConfig(128, 32, 8, 2), PrefillConfig(64, 32, 8, 2)]
    return [PrefillConfig(128, 64, 8, 2), PrefillConfig(128, 64, 8, 3), PrefillConfig(128, 128, 8, 2)]


class PrefillLaunch:
    """A callable that runs one configuration on one problem: the output, `[B, H, Q, D]`, is new each time."""

    def __init__(self, problem: AttentionProblem, inputs: AttentionInputs, config: PrefillConfig) -> None:
        self._problem, self._inputs, self.config = problem, inputs, config
        lengths = [problem.kv_len_of(sequence) for sequence in range(problem.batch_size)]
        self._lengths = torch.tensor(lengths, dtype=torch.int32, device=inputs.q.device)
        num_blocks = triton.cdiv(problem.group_size * problem.q_len, config.block_m)
        self._grid = (num_blocks * problem.batch_size * problem.num_kv_heads,)

    def __call__(self) -> torch.Tensor:
        problem, (q, k, v) = self._problem, (self._inputs.q, self._inputs.k, self._inputs.v)
        out = torch.empty_like(q, dtype=torch.float32 if is_interpreted() else q.dtype)
        assert k.stride(2) == v.stride(2)
        prefill_kernel[self._grid](
            q, k, v, out, self._lengths,
            *logit_scales(problem), problem.q_len, problem.group_size, problem.num_kv_heads,
            problem.window or 0,
            k.stride(0), k.stride(1), v.stride(0), v.stride(1), k.stride(2),
            **prefill_constants(problem, self.config),
            num_warps=self.config.num_warps, num_stages=self.config.num_stages,
        )  # fmt: skip
        return out.to(torch_dtype(problem))


def prefill_constants(problem: AttentionProblem, config: PrefillConfig) -> dict[str, object]:
    """Return the compile-time arguments of the kernel."""
    return {
        "HEAD_DIM": problem.head_dim,
        "BLOCK_D": block_dims_of(problem),
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "HAS_SOFT_CAP": problem.logits_soft_cap is not None,
        "LOOKS_BACK": problem.causal or problem.window is not None,
        "HAS_WINDOW": problem.window is not None and problem.window < problem.kv_len,
        "PRECISION": "ieee",
        "IS_INTERPRETED": is_interpreted(),
    }


def choose_prefill(problem: AttentionProblem, inputs: AttentionInputs) -> Choice[PrefillConfig]:
    """Choose the fastest of the candidates on the problem's device."""
    candidates = prefill_candidates(problem)
    if is_interpreted():
        return Choice(PrefillConfig(64, 32, 8, 2), "interpreted", None)

    def time_ms(config: PrefillConfig) -> float:
        return cold_milliseconds(PrefillLaunch(problem, inputs, config), problem.device)

    return choose(PrefillConfig, tuning_key("triton_prefill", problem), candidates, [], time_ms)
