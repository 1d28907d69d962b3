"""`gqabench.plan`: what fits a memory budget, as a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gqabench.harness.cases.capacity import budget_of
from gqabench.harness.cases.memory_plan import PlanRow, PlanTable, plan_memory
from gqabench.harness.sweep.composition import compose_values
from gqabench.harness.sweep.hydra_errors import mistakes_explained
from gqabench.harness.sweep.overrides import Value, hydra_arguments, overrides_of

if TYPE_CHECKING:
    import pandas as pd

_SHAPE_COLUMNS = {
    "model": "object", "num_layers": "int64", "num_q_heads": "int64", "head_dim": "int64", "tp": "int64",
    "kv_len": "int64", "dtype": "object", "kv_dtype": "object", "page_size": "Int64", "window": "Int64",
}  # fmt: skip
_ROW_COLUMNS = {
    "num_kv_heads": "int64", "group_size": "Int64", "kind": "object", "is_asked": "bool",
    "budget_bytes": "int64", "kv_cache_bytes_per_token": "Int64", "num_tokens": "Int64",
    "num_sequences": "Int64", "num_windowed_sequences": "Int64", "reason": "object",
}  # fmt: skip
"""Pandas dtype by column. A missing int is `<NA>`, never a float."""


def plan(*, memory: str | float, reserved: str | float = 0, **keys: Value) -> pd.DataFrame:
    """Return how many tokens and sequences fit a memory budget: the numbers of `gqabench plan`.

    One row for each shape and number of KV heads: every divisor of the query heads, unless `num_kv_heads`
    is given. Nothing runs, and no GPU is needed.

    Args:
        memory: Of one device: bytes, or a text such as `"80GB"` (10^9) or `"79.6GiB"` (2^30).
        reserved: What the cache cannot have of it: weights, activations.
        keys: Keys of a sweep: `model`, `kv_len`, `kv_dtype`, `page_size`, `window`, `tp`, ... A list is an
            axis.

    The columns, with `tp` above 1 of one tensor-parallel rank:
        model, num_layers, num_q_heads, head_dim, tp, kv_len, dtype, kv_dtype, page_size, window: the shape.
            `dtype` is `bfloat16` unless given.
        num_kv_heads, group_size, kind: heads of the whole model; `kind` is MHA, GQA or MQA.
        is_asked: whether the model, or the key `num_kv_heads`, has this number of KV heads.
        budget_bytes: `memory` less `reserved`.
        kv_cache_bytes_per_token: of all layers, scales of a quantised cache included.
        num_tokens, num_sequences: that fit, in whole pages where the cache has pages; sequences of `kv_len`.
        num_windowed_sequences: where every layer keeps a ring buffer of `window` tokens; else `<NA>`.
        reason: why there is no such model; None where there is.

    Raises `UsageError`, a `ValueError` of one line, for a key or a value that is wrong.
    """
    import pandas as pd

    budget_bytes = budget_of(_size_text(memory), _size_text(reserved))
    overrides = overrides_of(keys)
    with mistakes_explained():
        points = compose_values(hydra_arguments(overrides))
    tables = plan_memory(points, budget_bytes, are_heads_given="num_kv_heads" in keys)
    rows = [_values(table, row) | {"budget_bytes": budget_bytes} for table in tables for row in table.rows]
    dtypes = _SHAPE_COLUMNS | _ROW_COLUMNS
    return pd.DataFrame(
        {name: pd.Series([row[name] for row in rows], dtype=dtype) for name, dtype in dtypes.items()}
    )


def _size_text(size: str | float) -> str:
    return f"{size:.0f}" if isinstance(size, float) else str(size)


def _values(table: PlanTable, row: PlanRow) -> dict[str, Any]:
    fits = row.fits
    return {name: table.values[name] for name in _SHAPE_COLUMNS} | {
        "num_kv_heads": row.num_kv_heads,
        "group_size": row.group_size,
        "kind": row.kind,
        "is_asked": row.is_asked,
        "kv_cache_bytes_per_token": fits and fits.bytes_per_token,
        "num_tokens": fits and fits.num_tokens,
        "num_sequences": fits and fits.num_sequences,
        "num_windowed_sequences": fits and fits.num_windowed_sequences,
        "reason": row.reason,
    }
