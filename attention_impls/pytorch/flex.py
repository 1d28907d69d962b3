"""FlexAttention (Dong et al. 2024, arXiv 2412.05496): mask and soft cap compiled into the kernel.

Shape suffixes: B batch, H query heads, Q q_len, D head_dim.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.attention.flex_attention import FlexKernelOptions, flex_attention

from gqabench.attention_impls.abilities import device_reasons, plain_cache_reasons
from gqabench.attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from gqabench.attention_impls.parts.calls.compiled_call import compile_call, compiler_reasons
from gqabench.attention_impls.parts.calls.flex_block_mask import BLOCK_SIZE, flex_block_mask
from gqabench.attention_impls.problem import AttentionProblem

MIN_HEAD_DIM_ON_CUDA = 16
"""`torch/_inductor/kernel/flex/flex_attention.py`: "NYI: embedding dimension ... must be at least 16"."""

_AVX2_WRONG_HEAD_DIMS = (8, 16)
_AVX2_TILE = 16
_AVX2_VECTOR = 8
"""`torch/_inductor/codegen/cpp_micro_gemm.py` (2.13): below a head_dim of 24, logits are computed in tiles of
16 keys, and where one vector of keys is left over, a whole tile is read and written all the same."""

ScoreMod = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Flex(AttentionImpl):
    """`flex_attention(enable_gqa=True)`, compiled in `prepare` for the static shapes of the problem.

    Call it in the grad mode that it was prepared in (`torch.inference_mode()` or not), or it compiles again.
    On CUDA, few new tokens with a power-of-two group use its split-KV decode kernel, others its general one.
    """

    name = "flex"
    compiles_each_problem = True
    timed_call = TimedCall()

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        return [
            *device_reasons(problem),
            *plain_cache_reasons(problem),
            *flex_reasons(problem),
            *compiler_reasons(problem),
        ]

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        block_mask = flex_block_mask(problem)
        score_mod = None if problem.logits_soft_cap is None else _soft_cap(problem.logits_soft_cap)
        options: FlexKernelOptions | None = (
            {"FORCE_USE_FLEX_ATTENTION": True} if _overtaxes_decode_kernel(problem) else None
        )

        def attend() -> torch.Tensor:
            output_BHQD = flex_attention(
                inputs.q,
                inputs.k,
                inputs.v,
                score_mod=score_mod,
                block_mask=block_mask,
                scale=problem.scale,
                enable_gqa=problem.group_size != 1,
                kernel_options=options,
            )
            assert isinstance(output_BHQD, torch.Tensor)
            return output_BHQD

        run, compile_ms = compile_call(attend)
        return PreparedAttention(run, inputs.k.nbytes + inputs.v.nbytes, compile_ms=compile_ms)


def flex_reasons(problem: AttentionProblem) -> list[str]:
    """Return why PyTorch's `flex_attention` cannot compute a problem, whoever calls it."""
    if problem.device_type != "cpu":
        if problem.head_dim >= MIN_HEAD_DIM_ON_CUDA:
            return []
        return [f"head_dim={problem.head_dim}: flex_attention on CUDA needs {MIN_HEAD_DIM_ON_CUDA} or more"]
    capability = torch.backends.cpu.get_cpu_capability()
    if capability == "AVX2" and problem.head_dim in _AVX2_WRONG_HEAD_DIMS:
        if problem.kv_len % _AVX2_TILE == _AVX2_VECTOR:
            return [
                f"head_dim={problem.head_dim}, kv_len={problem.kv_len}: PyTorch's kernel for AVX2 gives"
                " wrong values at head_dim 8 and 16 where kv_len is 8 more than a multiple of 16"
            ]
        return []
    if capability.startswith("AVX"):
        return []
    return [f"flex_attention on a CPU needs AVX2; PyTorch runs this one as {capability}"]


def _overtaxes_decode_kernel(problem: AttentionProblem) -> bool:
    """Return whether PyTorch's decode kernel would put all rows of a KV head in too large a block.

    It finds no configuration for a block larger than the mask's
    (`torch/_inductor/kernel/flex/flex_decoding.py`, PyTorch 2.11). From 128 new tokens on, that kernel is not
    considered anyway.
    """
    rows = 1 << (problem.q_len * problem.group_size - 1).bit_length()
    return problem.device_type == "cuda" and rows > BLOCK_SIZE


def _soft_cap(cap: float) -> ScoreMod:
    def score_mod(
        score: torch.Tensor, b: torch.Tensor, h: torch.Tensor, q_index: torch.Tensor, k_index: torch.Tensor
    ) -> torch.Tensor:
        return cap * torch.tanh(score / cap)

    return score_mod
