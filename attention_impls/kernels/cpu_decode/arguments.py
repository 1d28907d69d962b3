"""The arguments of the kernel: the struct `Arguments` of kernel.cpp, filled for one problem."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

import torch

from gqabench.attention_impls.kernels.cpu_decode.plan import Plan
from gqabench.attention_impls.parts.caches.contiguous import ContiguousCache
from gqabench.attention_impls.parts.caches.quantisation import QuantisedTensor
from gqabench.attention_impls.problem import AttentionProblem

_POINTERS = ("q", "k", "v", "k_scales", "v_scales", "chunks", "merges", "lengths")
_COUNTS = (
    "num_chunks", "num_merges", "num_threads",
    "num_q_heads", "num_kv_heads", "group_size", "q_len", "kv_len", "head_dim",
    "k_sequence_stride", "k_head_stride", "k_token_stride",
    "v_sequence_stride", "v_head_stride", "v_token_stride",
    "looks_back_only", "window", "block_keys", "max_rows",
)  # fmt: skip
_NUMBERS = ("softmax_scale", "soft_cap")


class Arguments(ctypes.Structure):
    """Mirrors `Arguments` of kernel.cpp, field for field."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _COUNTS),
        *((name, ctypes.c_double) for name in _NUMBERS),
    ]


class Call:
    """The arguments of all calls for one problem, and the tensors that they point to.

    `q` is contiguous. K and V may have any strides between sequences, heads and tokens; the elements of a
    token are contiguous.
    """

    def __init__(
        self, problem: AttentionProblem, plan: Plan, q: torch.Tensor, cache: ContiguousCache, num_threads: int
    ) -> None:
        k, k_scales = _parts(cache.k)
        v, v_scales = _parts(cache.v)
        chunks, merges = _table(plan.chunks), _table(plan.merges)
        lengths = torch.tensor([problem.kv_len_of(b) for b in range(problem.batch_size)])
        self._kept = (q, k, v, k_scales, v_scales, chunks, merges, lengths)
        self.arguments = Arguments(
            q=q.data_ptr(), k=k.data_ptr(), v=v.data_ptr(),
            k_scales=None if k_scales is None else k_scales.data_ptr(),
            v_scales=None if v_scales is None else v_scales.data_ptr(),
            chunks=chunks.data_ptr(), merges=merges.data_ptr(), lengths=lengths.data_ptr(),
            num_chunks=len(plan.chunks), num_merges=len(plan.merges), num_threads=num_threads,
            num_q_heads=problem.num_q_heads, num_kv_heads=problem.num_kv_heads,
            group_size=problem.group_size, q_len=problem.q_len, kv_len=problem.kv_len,
            head_dim=problem.head_dim,
            k_sequence_stride=k.stride(0), k_head_stride=k.stride(1), k_token_stride=k.stride(2),
            v_sequence_stride=v.stride(0), v_head_stride=v.stride(1), v_token_stride=v.stride(2),
            looks_back_only=problem.causal or problem.window is not None, window=problem.window or 0,
            block_keys=plan.block_keys, max_rows=plan.max_rows,
            softmax_scale=problem.scale, soft_cap=problem.logits_soft_cap or 0.0,
        )  # fmt: skip
        self.address = ctypes.addressof(self.arguments)


def _parts(kv: torch.Tensor | QuantisedTensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the elements `[B, G, K, D]` and, if they are quantised, their scales `[B, G, K]`."""
    if isinstance(kv, QuantisedTensor):
        return _with_whole_tokens(kv.values), kv.scales.contiguous()
    return _with_whole_tokens(kv), None


def _with_whole_tokens(kv: torch.Tensor) -> torch.Tensor:
    """Return the tensor itself if the elements of each token are contiguous, else a copy."""
    return kv if kv.stride(-1) == 1 or kv.shape[-1] == 1 else kv.contiguous()


def _table(rows: Iterable[Iterable[int]]) -> torch.Tensor:
    return torch.tensor([list(row) for row in rows], dtype=torch.int64)
