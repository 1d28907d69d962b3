"""Checks what implementations return against the contract, since some come from outside. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import fields
from numbers import Integral, Real

from gqabench.attention_impls.contract import AttentionImpl, PreparedAttention, TimedCall
from gqabench.attention_impls.problem import AttentionProblem

_MOST_BYTES = 2**63
"""What a column of 64-bit integers holds."""
_TIMES = ("compile_ms", "autotune_ms", "plan_ms")


FIRST_FIELDS = frozenset(
    {
        "batch_size", "q_len", "kv_len", "num_q_heads", "num_kv_heads", "head_dim", "dtype", "device",
        "causal", "window", "softmax_scale", "logits_soft_cap", "kv_lens", "kv_dtype", "page_size",
    }
)  # fmt: skip
"""Fields of a problem that every implementation knows, since they are those of version 0.2."""


def stated_reasons(impl: AttentionImpl, problem: AttentionProblem) -> list[str]:
    """Return why an implementation cannot compute a problem: what it says, and fields that it does not know.

    Raises `TypeError` if what it says is malformed.
    """
    if unknown := _unknown_fields(impl, problem):
        return [f"{name}={value}: {impl.name} does not serve {name}" for name, value in unknown.items()]
    reasons: object = impl.unsupported_reasons(problem)
    if not isinstance(reasons, (list, tuple)) or not all(isinstance(reason, str) for reason in reasons):
        raise TypeError(f"unsupported_reasons returned {_shown(reasons)}, must return a list of str")
    return list(reasons)


def _unknown_fields(impl: AttentionImpl, problem: AttentionProblem) -> dict[str, object]:
    """Return the fields away from their defaults that are newer than an implementation, with their values."""
    known = FIRST_FIELDS | getattr(impl, "serves", frozenset())
    newer = [item for item in fields(problem) if item.name not in known]
    return {item.name: value for item in newer if (value := getattr(problem, item.name)) != item.default}


def declared_timed_call(impl: AttentionImpl) -> TimedCall | None:
    """Return what an implementation declares of its call, or None. Raises `TypeError` if malformed."""
    declared = getattr(impl, "timed_call", None)  # a class from outside need not have it
    if declared is not None and not isinstance(declared, TimedCall):
        raise TypeError(f"timed_call is {type(declared).__name__}, must be TimedCall or None")
    return declared


def reads_cache_in_place(impl: AttentionImpl) -> bool:
    """Return whether a prepared call sees later writes to the cache; True unless declared otherwise."""
    return bool(getattr(impl, "reads_cache_in_place", True))


def promised_operators(impl: AttentionImpl) -> tuple[str, ...]:
    """Return the operators that a call promises to run. Raises `TypeError` for anything but strings."""
    promised = getattr(impl, "promised_operators", ())
    if not isinstance(promised, (list, tuple)) or not all(isinstance(name, str) for name in promised):
        raise TypeError(f"promised_operators is {_shown(promised)}, must be a tuple of str")
    return tuple(promised)


def as_prepared(returned: object) -> PreparedAttention:
    """Convert what `prepare` returned to a `PreparedAttention` with Python numbers.

    Any object with the same members will do. Raises `TypeError` for one without them, and `ValueError` for
    impossible numbers.
    """
    if not callable(returned):
        raise TypeError(f"prepare returned {_shown(returned)}, must return a PreparedAttention")
    if not hasattr(returned, "kv_cache_bytes"):
        raise TypeError(f"prepare returned {_shown(returned)} without kv_cache_bytes")
    run = getattr(returned, "run", returned)
    if not callable(run):
        raise TypeError(f"run is {_shown(run)}, must be callable")
    kernel_config = getattr(returned, "kernel_config", None)
    if kernel_config is not None and not isinstance(kernel_config, str):
        raise TypeError(f"kernel_config is {_shown(kernel_config)}, must be str or None")
    times = {name: _time(name, getattr(returned, name, None)) for name in _TIMES}
    return PreparedAttention(run, _num_bytes(returned.kv_cache_bytes), kernel_config=kernel_config, **times)


def _num_bytes(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"kv_cache_bytes is {_shown(value)}, must be int")
    if not 0 <= int(value) < _MOST_BYTES:
        raise ValueError(f"kv_cache_bytes={value}: must be a number of bytes, from 0 to 2^63")
    return int(value)


def _time(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is {_shown(value)}, must be a number of milliseconds or None")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name}={value}: must be finite and not negative")
    return float(value)


def _shown(value: object) -> str:
    """Return the type of a value, and the value itself where that is short."""
    text = repr(value) if isinstance(value, (str, int, float)) else ""
    return f"{type(value).__name__} {text[:40]}".rstrip()
