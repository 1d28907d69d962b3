"""One decode call: its cache as pointers and strides, its schedule on the device, and the launches."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
import triton

from gqabench.attention_impls.contract import AttentionInputs
from gqabench.attention_impls.dtypes import torch_dtype
from gqabench.attention_impls.kernels.triton.decode_config import (
    DecodeConfig,
    block_dims_of,
    block_rows_of,
    num_rows_of,
)
from gqabench.attention_impls.kernels.triton.decode_kernel import decode_kernel, merge_kernel
from gqabench.attention_impls.kernels.triton.decode_schedule import DecodeSchedule, decode_schedule
from gqabench.attention_impls.kernels.triton.device import is_interpreted, num_processors
from gqabench.attention_impls.kernels.triton.interpreter import patch_interpreter
from gqabench.attention_impls.kernels.triton.logit_scales import logit_scales
from gqabench.attention_impls.parts.caches.paged import PagedCache
from gqabench.attention_impls.parts.caches.quantisation import QuantisedTensor, quantise
from gqabench.attention_impls.problem import AttentionProblem

patch_interpreter()

MERGE_ROWS = 4
"""Rows that one program of the second kernel merges."""


@dataclass(frozen=True)
class DecodeCache:
    """Keys and values as the kernel addresses them: `outermost * stride + head * stride + token * stride`.

    The outermost index is a page where there are pages, and a sequence where there are none.
    """

    k: torch.Tensor
    v: torch.Tensor
    k_scales: torch.Tensor | None
    v_scales: torch.Tensor | None
    page_table: torch.Tensor | None
    head_axis: int
    """1 in `[B, G, K, D]`, 2 in `[num_pages, page_size, G, D]`"""

    @classmethod
    def of(cls, problem: AttentionProblem, inputs: AttentionInputs) -> DecodeCache:
        """Read the cache in place if it is contiguous and in `dtype`; else make one for the kernel."""
        k: torch.Tensor | QuantisedTensor = inputs.k
        v: torch.Tensor | QuantisedTensor = inputs.v
        table, head_axis = None, 1
        if problem.page_size is not None:
            paged = PagedCache.of(problem, inputs)
            k, v, table, head_axis = paged.k, paged.v, paged.page_table, 2
        elif problem.kv_dtype is not None:
            k, v = (quantise(x.contiguous(), problem.kv_dtype) for x in (inputs.k, inputs.v))
        if isinstance(k, QuantisedTensor) and isinstance(v, QuantisedTensor):
            return cls(k.values, v.values, k.scales, v.scales, table, head_axis)
        assert isinstance(k, torch.Tensor)
        assert isinstance(v, torch.Tensor)
        if k.stride(3 - head_axis) != v.stride(3 - head_axis):  # the kernel has one stride for both
            k, v = k.contiguous(), v.contiguous()
        return cls(k, v, None, None, table, head_axis)

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and scales."""
        held = (self.k, self.v, self.k_scales, self.v_scales)
        return sum(x.nbytes for x in held if x is not None)

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides in elements, in the order of the kernel's arguments."""
        token_axis = 3 - self.head_axis
        assert self.k.stride(token_axis) == self.v.stride(token_axis), "`of` ensures it"
        scales = (0, 0, 0)
        if self.k_scales is not None:
            scale_strides = self.k_scales.stride()
            scales = (scale_strides[0], scale_strides[self.head_axis], scale_strides[token_axis])
        return (
            self.k.stride(0), self.k.stride(self.head_axis), self.v.stride(0), self.v.stride(self.head_axis),
            self.k.stride(token_axis), *scales,
        )  # fmt: skip


class DecodeLaunch:
    """A callable that runs one configuration on one problem: the output, `[B, H, Q, D]`, is new each time.

    Calls must not overlap: they share the launch's counters of arrived parts, so two CUDA streams need two
    launches.
    """

    def __init__(
        self, problem: AttentionProblem, inputs: AttentionInputs, cache: DecodeCache, config: DecodeConfig
    ) -> None:
        self._problem, self._q, self._cache, self.config = problem, inputs.q, cache, config
        self._num_rows = num_rows_of(problem)
        self._block_rows = block_rows_of(problem)
        self._num_row_blocks = -(-self._num_rows // self._block_rows)
        per_item = problem.num_kv_heads * self._num_row_blocks
        num_resident = num_processors(problem.device) * config.programs_per_sm
        self.schedule: DecodeSchedule = decode_schedule(problem, config.block_n, per_item, num_resident)
        device = inputs.q.device
        self._items = _int32([astuple(item) for item in self.schedule.items], device)
        self._first_slots = _int32(self.schedule.first_slots, device)
        self._num_parts = _int32(self.schedule.num_parts, device)
        self._arrivals = torch.zeros(problem.batch_size * per_item, dtype=torch.int32, device=device)
        self._grid = (len(self.schedule.items) * per_item,)
        self._constants = self._kernel_constants()

    @property
    def workspace_bytes(self) -> int:
        """Bytes of partial results, which are float32, and of a sum for each row."""
        num_rows = self.schedule.num_slots * self._problem.num_kv_heads * self._num_rows
        return num_rows * (self._problem.head_dim + 1) * 4

    def __call__(self) -> torch.Tensor:
        problem, cache = self._problem, self._cache
        out = torch.empty_like(self._q, dtype=torch.float32 if is_interpreted() else self._q.dtype)
        partial_rows = self.schedule.num_slots * problem.num_kv_heads * self._num_rows
        partial = out.new_empty(partial_rows * problem.head_dim, dtype=torch.float32)
        log_sums = out.new_empty(partial_rows, dtype=torch.float32)
        inner, outer = logit_scales(problem)
        decode_kernel[self._grid](
            self._q, cache.k, cache.v, cache.k_scales, cache.v_scales, out, partial, log_sums, self._arrivals,
            self._items, self._first_slots, cache.page_table,
            inner, outer, self._num_rows, problem.num_kv_heads, problem.q_len, problem.window or 0,
            0 if cache.page_table is None else cache.page_table.stride(0), *cache.strides,
            **self._constants, num_warps=self.config.num_warps, num_stages=self.config.num_stages,
        )  # fmt: skip
        if partial_rows and self.config.merge == "second_kernel":
            grid = (problem.batch_size, problem.num_kv_heads, triton.cdiv(self._num_rows, MERGE_ROWS))
            merge_kernel[grid](
                out, partial, log_sums, self._first_slots, self._num_parts, self._num_rows,
                problem.num_kv_heads,
                HEAD_DIM=problem.head_dim, BLOCK_D=block_dims_of(problem), BLOCK_ROWS=MERGE_ROWS,
            )  # fmt: skip
        return out.to(torch_dtype(problem))

    def _kernel_constants(self) -> dict[str, object]:
        problem, config = self._problem, self.config
        return decode_constants(problem, config) | {
            # Other row blocks will soon read the same keys from the L2.
            "EVICTION": "evict_first" if self._num_row_blocks == 1 else "",
            "MERGES_HERE": config.merge == "last_arrival" and self.schedule.num_slots > 0,
        }


def decode_constants(problem: AttentionProblem, config: DecodeConfig) -> dict[str, object]:
    """Return the compile-time arguments of the kernel that do not depend on the schedule."""
    has_window = problem.window is not None and problem.window < problem.kv_len
    return {
        "HEAD_DIM": problem.head_dim,
        "BLOCK_D": block_dims_of(problem),
        "BLOCK_M": block_rows_of(problem),
        "BLOCK_N": config.block_n,
        "PAGE_SIZE": problem.page_size or 0,
        "IS_QUANTISED": problem.kv_dtype is not None,
        "IS_SWAPPED": config.layout == "swapped",
        "HAS_SOFT_CAP": problem.logits_soft_cap is not None,
        "LOOKS_BACK": problem.causal or problem.window is not None,
        "HAS_WINDOW": has_window,
        "ONE_QUERY": problem.q_len == 1,
        "EVICTION": "evict_first",
        "MERGES_HERE": config.merge == "last_arrival",
        "PRECISION": "ieee",
        "IS_INTERPRETED": is_interpreted(),
    }


def _int32(values: object, device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)
