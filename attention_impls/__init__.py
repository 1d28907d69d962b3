"""Grouped-query attention implementations under one contract, one implementation a file.

Importing this package imports no torch: an implementation is loaded when it is asked for.
"""

from attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention
from attention_impls.problem import AttentionProblem, InvalidCombination, InvalidProblem
from attention_impls.registry import BrokenImpl, UnknownImpl, get_impl, list_impls

__all__ = [
    "AttentionImpl",
    "AttentionInputs",
    "AttentionProblem",
    "BrokenImpl",
    "InvalidCombination",
    "InvalidProblem",
    "PreparedAttention",
    "UnknownImpl",
    "get_impl",
    "list_impls",
]
