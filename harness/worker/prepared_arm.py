"""An arm of the open case, once it is prepared and its first outputs were right."""

from __future__ import annotations

from dataclasses import dataclass

from gqabench.attention_impls import PreparedAttention


@dataclass
class PreparedArm:
    """What the worker knows of an arm between requests."""

    call: PreparedAttention
    kept_bytes: int
    """What preparing and the first calls left allocated"""
    promised_operators: tuple[str, ...]
    """Beginnings of the names of operators, one of which a call has to run; empty where any will do"""
    allocates_outside_torch: bool
    """Whether it says that PyTorch's allocator does not see what it takes"""
    num_calls: int = 0
    """Timed calls so far: each has queries of its own"""
