"""How a problem is passed to `flash_attn_with_kvcache` of FlashAttention 2 and 3.

Shape suffixes: B batch, H query heads, G key/value heads, Q q_len, K kv_len, D head_dim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gqabench.attention_impls.contract import AttentionInputs, PreparedAttention
from gqabench.attention_impls.parts.caches.paged import PagedCache
from gqabench.attention_impls.parts.calls.cuda_peer import (
    lengths_on_device,
    looks_back_only,
    token_first_cache,
    window_size,
)
from gqabench.attention_impls.problem import AttentionProblem

CHOOSE_SPLITS = 0
"""`num_splits`: by the kernel's own heuristic. `flash_attn_func` would take one, which starves decoding."""


def prepare_with_kvcache(
    problem: AttentionProblem,
    inputs: AttentionInputs,
    attend: Callable[..., Any],
    page_table_name: str,
) -> PreparedAttention:
    """Prepare a call of `attend` over a contiguous cache, or over pages if the problem has a page size.

    `page_table_name`: the argument's name, which differs between the versions. Causal masks are aligned
    bottom-right there as here.
    """
    if problem.page_size is None:
        k, v = token_first_cache(inputs)
        num_bytes, pages = k.nbytes + v.nbytes, {}
    else:
        cache = PagedCache.of(problem, inputs)
        assert isinstance(cache.k, torch.Tensor) and isinstance(cache.v, torch.Tensor)
        k, v, num_bytes = cache.k, cache.v, cache.nbytes
        pages = {page_table_name: cache.page_table}
    options = {
        "cache_seqlens": lengths_on_device(problem),
        "softmax_scale": problem.scale,
        "causal": looks_back_only(problem),
        "window_size": window_size(problem),
        "softcap": problem.logits_soft_cap or 0.0,
        "num_splits": CHOOSE_SPLITS,
        **pages,
    }

    def run() -> torch.Tensor:
        output_BQHD: torch.Tensor = attend(inputs.q.transpose(1, 2), k, v, **options)
        return output_BQHD.transpose(1, 2)

    return PreparedAttention(run, num_bytes)
