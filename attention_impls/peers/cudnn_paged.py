"""cuDNN's attention over a paged cache, through the graph API of nvidia-cudnn-frontend.

Shape suffixes: B batch, H query heads, G key/value heads, Q q_len, D head_dim.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from gqabench.attention_impls.abilities import unquantised_reasons
from gqabench.attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from gqabench.attention_impls.parts.caches.paged import PagedCache
from gqabench.attention_impls.parts.calls.cuda_peer import (
    cuda_peer_reasons,
    dead_row_reasons,
    keys_on_the_left,
    lengths_on_device,
    looks_back_only,
)
from gqabench.attention_impls.problem import AttentionProblem

CUDNN_DTYPES = {"float16": "HALF", "bfloat16": "BFLOAT16"}
MAX_HEAD_DIM = 256
OLD_MAX_HEAD_DIM, OLD_VERSION = 128, 90900
"""`validate_sdpa_support_surface` of cudnn-frontend: pages with wider heads came after cuDNN 9.9."""


class CudnnPaged(AttentionImpl):
    """`graph.sdpa` with page tables; building the graph and choosing its plan are in `prepare`."""

    name = "cudnn_paged"
    devices = ("cuda",)
    extras = ("cudnn",)
    reads_cache_in_place = False
    timed_call = TimedCall()

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        reasons = [
            *cuda_peer_reasons(problem, "cudnn", "cudnn"),
            *unquantised_reasons(problem),
            *dead_row_reasons(problem),
        ]
        if problem.logits_soft_cap is not None:
            # sdpa has a soft cap only as a `score_mod`, which it refuses with padding; pages need padding.
            reasons.append(f"logits_soft_cap={problem.logits_soft_cap}: cuDNN has no soft cap with pages")
        widest = OLD_MAX_HEAD_DIM if (torch.backends.cudnn.version() or 0) <= OLD_VERSION else MAX_HEAD_DIM
        if problem.head_dim > widest or problem.head_dim % 8:
            reasons.append(f"head_dim={problem.head_dim}: must be a multiple of 8 of at most {widest}")
        return reasons

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        started = time.perf_counter()
        pages = PagedCache.of(problem, inputs)
        output_BHQD = torch.empty_like(inputs.q)
        execute = _build(problem, inputs.q, output_BHQD, pages)
        plan_ms = (time.perf_counter() - started) * 1e3

        def run() -> torch.Tensor:
            execute()
            return output_BHQD

        return PreparedAttention(run, pages.nbytes, plan_ms=plan_ms)


def _build(
    problem: AttentionProblem, q_BHQD: torch.Tensor, output_BHQD: torch.Tensor, pages: PagedCache
) -> Callable[[], None]:
    """Build the graph and its plan, and bind its tensors; return a function that executes it."""
    import cudnn

    handle = _handle(problem.device)
    graph = cudnn.pygraph(
        io_data_type=getattr(cudnn.data_type, CUDNN_DTYPES[problem.dtype]),
        intermediate_data_type=cudnn.data_type.FLOAT,
        compute_data_type=cudnn.data_type.FLOAT,
        handle=handle,
    )
    bound = _tensors(problem, q_BHQD, pages)
    nodes = {name: graph.tensor_like(tensor) for name, tensor in bound.items()}
    output, _ = graph.sdpa(
        **nodes,
        generate_stats=False,
        attn_scale=problem.scale,
        use_padding_mask=True,
        paged_attention_max_seq_len_kv=problem.kv_len,
        **_band(problem, cudnn.diagonal_alignment.BOTTOM_RIGHT),
    )
    output.set_output(True).set_dim(list(output_BHQD.shape)).set_stride(list(output_BHQD.stride()))
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A])
    graph.check_support()
    graph.build_plans()
    scratch = torch.empty(max(graph.get_workspace_size(), 1), dtype=torch.uint8, device=problem.device)
    pack = {nodes[name]: tensor for name, tensor in bound.items()} | {output: output_BHQD}

    def execute() -> None:
        # A handle keeps using the last stream that it was given, and a CUDA graph is captured on another.
        cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream(problem.device).cuda_stream)
        graph.execute(pack, scratch, handle=handle)

    return execute


@cache
def _handle(device: str) -> Any:
    """Create one handle for all problems of a device: it holds memory and is never destroyed."""
    import cudnn

    return cudnn.create_handle()


def _band(problem: AttentionProblem, bottom_right: Any) -> dict[str, Any]:
    """Return the arguments that limit the keys which a query sees.

    There are none for a single query, which is the last token, without a window. cuDNN counts the query's own
    key in the left bound, as `window` does.
    """
    band: dict[str, Any] = {}
    if looks_back_only(problem) and problem.q_len > 1:
        band["diagonal_band_right_bound"] = 0
    if keys_on_the_left(problem) >= 0:
        band |= {"diagonal_band_right_bound": 0, "diagonal_band_left_bound": problem.window}
    return band | ({"diagonal_alignment": bottom_right} if band else {})


def _tensors(problem: AttentionProblem, q_BHQD: torch.Tensor, pages: PagedCache) -> dict[str, torch.Tensor]:
    """Return the arguments of `graph.sdpa`. cuDNN orders the dimensions as `[pages, G, page_size, D]`."""
    assert isinstance(pages.k, torch.Tensor) and isinstance(pages.v, torch.Tensor)
    table_B1P1 = pages.page_table[:, None, :, None]
    lengths_B111 = lengths_on_device(problem)[:, None, None, None]
    return {
        "q": q_BHQD,
        "k": pages.k.transpose(1, 2),
        "v": pages.v.transpose(1, 2),
        "seq_len_q": torch.full_like(lengths_B111, problem.q_len),
        "seq_len_kv": lengths_B111,
        "paged_attention_k_table": table_B1P1,
        "paged_attention_v_table": table_B1P1,
    }
