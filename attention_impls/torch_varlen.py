"""`torch.nn.attention.varlen.varlen_attn`: PyTorch's FlashAttention for sequences one behind another.

Shape suffixes: B batch, H query heads, G key/value heads, Q q_len, K kv_len, D head_dim, T tokens of all.
"""

from __future__ import annotations

import inspect
from collections.abc import Set
from typing import Any

import torch

from attention_impls.abilities import device_reasons, no_soft_cap_reasons, unquantised_reasons
from attention_impls.caches.paged import PagedCache
from attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from attention_impls.libraries.cuda_peer import (
    HALF_DTYPES,
    dead_row_reasons,
    keys_on_the_left,
    lengths_on_device,
    looks_back_only,
    starts_on_device,
    tokens_first,
)
from attention_impls.problem import AttentionProblem

PAGE_MULTIPLE = 256
"""Of FlashAttention-2 inside PyTorch, as in flash-attn itself."""


class TorchVarlen(AttentionImpl):
    """Grouped heads, lengths, pages and split-KV came with PyTorch 2.13. Its signature says what it has."""

    name = "torch_varlen"
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
            reasons.append("device=cpu: varlen_attn has kernels for CUDA alone")
        if problem.dtype not in HALF_DTYPES:
            reasons.append(f"dtype={problem.dtype}: varlen_attn computes in {' and '.join(HALF_DTYPES)}")
        if problem.page_size is not None and problem.page_size % PAGE_MULTIPLE:
            reasons.append(f"page_size={problem.page_size}: must be a multiple of {PAGE_MULTIPLE}")
        known, this_one = _arguments(), f"varlen_attn of PyTorch {torch.__version__}"
        if problem.group_size > 1 and "enable_gqa" not in known:
            reasons.append(f"num_kv_heads={problem.num_kv_heads}: {this_one} has no grouped heads; 2.13 has")
        if problem.is_ragged and "seqused_k" not in known:
            lengths = list(problem.kv_lens or ())
            reasons.append(f"kv_lens={lengths}: {this_one} has no lengths of cached sequences; 2.13 has")
        if problem.page_size is not None and "block_table" not in known:
            reasons.append(f"page_size={problem.page_size}: {this_one} has no pages; 2.13 has")
        return reasons

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        from torch.nn.attention.varlen import varlen_attn

        if problem.page_size is None:
            k, v = (tokens_first(x).flatten(0, 1) for x in (inputs.k, inputs.v))
            pages, num_bytes = {}, k.nbytes + v.nbytes
            starts = starts_on_device([problem.kv_len] * problem.batch_size, problem.device)
        else:
            cache = PagedCache.of(problem, inputs)
            assert isinstance(cache.k, torch.Tensor) and isinstance(cache.v, torch.Tensor)
            k, v, num_bytes = cache.k, cache.v, cache.nbytes
            pages, starts = {"block_table": cache.page_table}, None
        is_causal = looks_back_only(problem)
        options: dict[str, Any] = {
            "scale": problem.scale,
            "window_size": (keys_on_the_left(problem), 0 if is_causal else -1),
            **pages,
        }
        if problem.group_size > 1:
            options["enable_gqa"] = True
        if "seqused_k" in _arguments():
            options["seqused_k"] = lengths_on_device(problem)
        q_starts = starts_on_device([problem.q_len] * problem.batch_size, problem.device)

        def run() -> torch.Tensor:
            q_THD = inputs.q.transpose(1, 2).reshape(-1, problem.num_q_heads, problem.head_dim)
            output_THD = varlen_attn(q_THD, k, v, q_starts, starts, problem.q_len, problem.kv_len, **options)
            assert isinstance(output_THD, torch.Tensor)
            return output_THD.view(problem.batch_size, problem.q_len, *output_THD.shape[1:]).transpose(1, 2)

        return PreparedAttention(run, num_bytes)


def _arguments() -> Set[str]:
    """Names of what this PyTorch's function takes."""
    from torch.nn.attention.varlen import varlen_attn

    return inspect.signature(varlen_attn).parameters.keys()
