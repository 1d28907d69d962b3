"""Which implementations expand K and V: seen in the workspace of decoding, where nothing else is large."""

from __future__ import annotations

import pandas as pd

from reports.tidy import ok_rows

EXPANDED_SHARE = 0.45
"""Of K and V at the size of all query heads: half is one of the two, less a little for what is reused."""

MIN_GROUP_SIZE = 4
"""Below it a temporary copy in a wider dtype is as large as an expanded one: nothing can be told."""


def workspace_shares(frame: pd.DataFrame) -> pd.DataFrame:
    """Decode rows of the largest group with `expanded_bytes` and `share`, workspace over expanded bytes.

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
    """Arms whose workspace is at least as large as K or V expanded to all query heads, by median; by name."""
    shares = workspace_shares(frame)
    if len(shares) == 0:
        return []
    median = shares.groupby("arm")["share"].median()
    return sorted(str(arm) for arm in median[median >= EXPANDED_SHARE].index)
