"""The expansion of K or V to one head per query head: what grouped-query attention exists to avoid.

Shape suffixes: B batch, G key/value heads, H query heads, K kv_len, D head_dim.
"""

from __future__ import annotations

import torch


def expand_kv(kv_BGKD: torch.Tensor, group_size: int) -> torch.Tensor:
    """Copy K or V with each key/value head repeated for the `group_size` query heads that read it.

    `[B, G, K, D]` to `[B, H, K, D]`. Without grouping there is nothing to expand and nothing is copied, as in
    Hugging Face's `repeat_kv`.
    """
    return kv_BGKD if group_size == 1 else kv_BGKD.repeat_interleave(group_size, dim=1)
