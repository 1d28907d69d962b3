"""How many tokens and sequences fit a memory budget. Arithmetic only: nothing runs."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal

from gqabench.attention_impls import AttentionProblem
from gqabench.attention_impls.cost import kv_cache_bytes_per_token
from gqabench.harness.errors import UsageError

_UNITS = {"B": 1}
_UNITS |= {unit: 1000**power for power, unit in enumerate(("kB", "MB", "GB", "TB"), start=1)}
_UNITS |= {unit: 1024**power for power, unit in enumerate(("KiB", "MiB", "GiB", "TiB"), start=1)}
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]+)?")


@dataclass(frozen=True)
class Capacity:
    """What fits a budget on one device, which is one tensor-parallel rank where there are several."""

    bytes_per_token: int
    """Of all layers, scales of a quantised cache included."""
    num_tokens: int
    """In whole pages where the cache has pages."""
    num_sequences: int
    """Each of `kv_len` tokens, in pages of its own."""
    num_windowed_sequences: int | None
    """Where every layer keeps a ring buffer of the window alone; None without a window below `kv_len`."""


def capacity(problem: AttentionProblem, num_layers: int, budget_bytes: int) -> Capacity:
    """Return how much of a problem's cache a budget of bytes holds. Its batch and queries do not matter.

    One token takes `num_layers * 2 * num_kv_heads * (head_dim * itemsize [+ scale])` bytes:
    `gqabench.attention_impls.cost.kv_cache_bytes_per_token`, which gives the sources.
    """
    per_token = num_layers * kv_cache_bytes_per_token(replace(problem, kv_lens=None, batch_size=1))
    page_size = problem.page_size or 1
    num_pages = max(budget_bytes, 0) // (page_size * per_token)
    windowed = None
    if problem.window is not None and problem.window < problem.kv_len:
        windowed = num_pages // _num_pages(problem.window, page_size)
    return Capacity(
        bytes_per_token=per_token,
        num_tokens=num_pages * page_size,
        num_sequences=num_pages // _num_pages(problem.kv_len, page_size),
        num_windowed_sequences=windowed,
    )


def budget_of(memory: str, reserved: str, prefix: str = "") -> int:
    """Return the bytes of `memory` that `reserved` leaves. Raises `UsageError` where it leaves none.

    `prefix` stands before these two names where they are options of a command.
    """
    budget_bytes = parse_size(f"{prefix}memory", memory) - parse_size(f"{prefix}reserved", reserved)
    if budget_bytes <= 0:
        joined_by = " " if prefix else "="
        raise UsageError(
            f"{prefix}reserved{joined_by}{reserved}: must be less than {prefix}memory{joined_by}{memory}"
        )
    return budget_bytes


def parse_size(name: str, text: str) -> int:
    """Return the bytes of `80GB` (10^9), `80GiB` (2^30), or a bare number.

    `name` is the option `--memory` or the keyword `memory` that has this value; a `UsageError` names it.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = match["unit"] or "B" if match else ""
    if match is None or unit not in _UNITS:
        joined_by = " " if name.startswith("--") else "="
        raise UsageError(
            f"{name}{joined_by}{text}: must be a size such as 80GiB or 80GB; units: {', '.join(_UNITS)}"
        )
    return int(Decimal(match["number"]) * _UNITS[unit])


def _num_pages(num_tokens: int, page_size: int) -> int:
    return -(-num_tokens // page_size)
