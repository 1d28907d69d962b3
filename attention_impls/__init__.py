"""Grouped-query attention implementations under one contract, one implementation a file.

Importing this package imports no torch: an implementation and the layer are loaded when asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gqabench.attention_impls.contract import (
    AttentionImpl,
    AttentionInputs,
    Copying,
    PreparedAttention,
    TimedCall,
)
from gqabench.attention_impls.problem import AttentionProblem, InvalidCombination, InvalidProblem
from gqabench.attention_impls.registry import BrokenImpl, UnknownImpl, get_impl, list_impls

if TYPE_CHECKING:
    from gqabench.attention_impls.models.layer import GroupedQueryAttention

__all__ = [
    "AttentionImpl",
    "AttentionInputs",
    "AttentionProblem",
    "BrokenImpl",
    "Copying",
    "GroupedQueryAttention",
    "InvalidCombination",
    "InvalidProblem",
    "PreparedAttention",
    "TimedCall",
    "UnknownImpl",
    "get_impl",
    "list_impls",
]


def __getattr__(name: str) -> object:
    """Import `GroupedQueryAttention` on first use, since it needs torch (PEP 562)."""
    if name == "GroupedQueryAttention":
        from gqabench.attention_impls.models.layer import GroupedQueryAttention

        return GroupedQueryAttention
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
