"""Which implementations need as much workspace as K and V of all query heads: seen in decoding.

Nothing else is large there, so that expanding K and V is what such a workspace is for.
"""

from __future__ import annotations

import pandas as pd

from gqabench.reports.frames.tidy import ok_rows

EXPANDED_SHARE = 0.9
"""Of K and V at the size of all query heads: both of them, less a little for what is reused."""

MIN_GROUP_SIZE = 4
"""Below it temporary copies in a wider dtype are as large as expanded ones, so nothing follows."""


def workspace_shares(frame: pd.DataFrame) -> pd.DataFrame:
    """Return decode rows of the largest group with `expanded_bytes` and `share`, workspace over those.

    `expanded_bytes` is the cache times the group size: what `repeat_interleave` makes of it. Rows with a
    quantised cache are left out, since dequantising it also takes a copy.
    """
    rows = ok_rows(frame)
    rows = rows[(rows["q_len"] == 1) & (rows["group_size"] >= MIN_GROUP_SIZE) & rows["kv_dtype"].isna()]
    rows = rows[rows["peak_workspace_bytes"].notna() & (rows["kv_cache_bytes_model"] > 0)]
    widest: pd.DataFrame = rows[rows["group_size"] == rows["group_size"].max()]
    expanded = widest["kv_cache_bytes_model"] * widest["group_size"]
    return widest.assign(expanded_bytes=expanded, share=widest["peak_workspace_bytes"] / expanded)


def expanding_arms(frame: pd.DataFrame) -> list[str]:
    """Return arms whose workspace is about as large as K and V of all query heads, or larger; by name.

    The arm's largest caches tell: beside a small one a buffer of fixed size would look like expansion.
    """
    shares = workspace_shares(frame)
    if len(shares) == 0:
        return []
    largest = shares.groupby("arm")["kv_cache_bytes_model"].transform("max")
    least = shares[shares["kv_cache_bytes_model"] == largest].groupby("arm")["share"].min()
    return sorted(str(arm) for arm in least[least >= EXPANDED_SHARE].index)
