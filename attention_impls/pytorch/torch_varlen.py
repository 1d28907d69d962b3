"""`torch.nn.attention.varlen.varlen_attn`: PyTorch's FlashAttention for concatenated sequences.

Shape suffixes: B batch, H query heads, G key/value heads, Q q_len, K kv_len, D head_dim, T tokens of all.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from gqabench.attention_impls.abilities import device_reasons, no_soft_cap_reasons, unquantised_reasons
from gqabench.attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from gqabench.attention_impls.parts.caches.paged import PagedCache
from gqabench.attention_impls.parts.calls.cuda_peer import (
    HALF_DTYPES,
    dead_row_reasons,
    lengths_on_device,
    starts_on_device,
    window_size,
)
from gqabench.attention_impls.problem import AttentionProblem

PAGE_MULTIPLE = 256
"""The requirement of FlashAttention-2 inside PyTorch, as in flash-attn itself."""


class TorchVarlen(AttentionImpl):
    """The cache without padding; grouped heads and pages came with PyTorch 2.13."""

    name = "torch_varlen"
    devices = ("cuda",)
    reads_cache_in_place = False
    timed_call = TimedCall()

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        reasons = [
            *device_reasons(problem),
            *unquantised_reasons(problem),
            *no_soft_cap_reasons(problem),
            *dead_row_reasons(problem),
        ]
        if problem.device_type == "cpu":
            reasons.append("device=cpu: varlen_attn has kernels for CUDA only")
        if problem.dtype not in HALF_DTYPES:
            reasons.append(f"dtype={problem.dtype}: varlen_attn supports {' and '.join(HALF_DTYPES)}")
        if problem.page_size is not None and problem.page_size % PAGE_MULTIPLE:
            reasons.append(f"page_size={problem.page_size}: must be a multiple of {PAGE_MULTIPLE}")
        if problem.device_type == "cuda":
            reasons += version_reasons(problem)
        return reasons

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        from torch.nn.attention.varlen import varlen_attn

        options: dict[str, Any] = {"scale": problem.scale, "window_size": window_size(problem)}
        if problem.group_size > 1:
            options["enable_gqa"] = True
        if problem.page_size is None:
            lengths = [problem.kv_len_of(sequence) for sequence in range(problem.batch_size)]
            k, v = (_one_behind_another(x, lengths) for x in (inputs.k, inputs.v))
            num_bytes, starts = k.nbytes + v.nbytes, starts_on_device(lengths, problem.device)
        else:
            cache = PagedCache.of(problem, inputs)
            assert isinstance(cache.k, torch.Tensor) and isinstance(cache.v, torch.Tensor)
            k, v, num_bytes, starts = cache.k, cache.v, cache.nbytes, None
            options |= {"block_table": cache.page_table, "seqused_k": lengths_on_device(problem)}
        q_starts = starts_on_device([problem.q_len] * problem.batch_size, problem.device)

        def run() -> torch.Tensor:
            q_THD = inputs.q.transpose(1, 2).reshape(-1, problem.num_q_heads, problem.head_dim)
            output_THD = varlen_attn(q_THD, k, v, q_starts, starts, problem.q_len, problem.kv_len, **options)
            assert isinstance(output_THD, torch.Tensor)
            return output_THD.view(problem.batch_size, problem.q_len, *output_THD.shape[1:]).transpose(1, 2)

        return PreparedAttention(run, num_bytes)


def version_reasons(problem: AttentionProblem) -> list[str]:
    """Return what the problem needs of `varlen_attn` and this PyTorch's has not; empty means nothing.

    Its import takes two seconds, as it loads the compiler of PyTorch: not for where it cannot run anyway.
    """
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    where = f"varlen_attn of PyTorch {torch.__version__}"
    reasons = []
    if problem.group_size > 1 and "enable_gqa" not in known:
        reasons.append(f"num_kv_heads={problem.num_kv_heads}: {where} has no grouped heads; 2.13 has")
    if problem.page_size is not None and "block_table" not in known:
        reasons.append(f"page_size={problem.page_size}: {where} has no pages; 2.13 has")
    return reasons


def _one_behind_another(x_BGKD: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Concatenate the existing tokens of every sequence, `[T, G, D]`."""
    return torch.cat(
        [x_GKD[:, :length].transpose(0, 1) for x_GKD, length in zip(x_BGKD, lengths, strict=True)]
    )
