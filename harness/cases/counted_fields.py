"""Which fields of a problem count for its identity: ids of stored records stay when an axis joins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any

from gqabench.attention_impls import AttentionProblem

ALWAYS_COUNTED = frozenset(
    {
        "model", "tp", "workload", "phase", "num_layers", "seed", "measure", "group_size", "batch_size",
        "q_len", "kv_len", "num_q_heads", "num_kv_heads", "head_dim", "dtype", "device", "causal", "window",
        "softmax_scale", "logits_soft_cap", "kv_lens", "kv_dtype", "page_size",
    }
)  # fmt: skip
"""What the first stored records counted. An axis that joins later is not named here: it counts where it is
not at its default, so that ids from before it stay, and older revisions of this code open such cases."""

_DEFAULTS = {item.name: item.default for item in fields(AttentionProblem) if item.default is not MISSING}


def counted_fields(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that identify a problem."""
    return {
        key: value
        for key, value in values.items()
        if key in ALWAYS_COUNTED or key not in defaults or value != defaults[key]
    }


def problem_fields(problem: AttentionProblem) -> dict[str, Any]:
    """Return a problem's arguments, without later axes that are at their default."""
    return counted_fields(asdict(problem), _DEFAULTS)
