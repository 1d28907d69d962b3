"""The highest public figures for the cells that our kernels are measured in, beside what was measured.

32 query heads, 8 KV heads, head_dim 128, one layer. Decode: derived from the timing tables of
ai-dynamo/aiconfigurator at 095f58a (CUDA graph, the best engine of each cell). Prefill: the best causal
bfloat16 row of width 128 in the same tables. A figure stands beside a measurement of the same card only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

CARDS = ("H200", "H100")


@dataclass(frozen=True)
class PublishedLatency:
    """The least published time of one decode call."""

    card: str
    batch_size: int
    kv_len: int
    kv_dtype: str | None
    latency_us: float


PUBLISHED_DECODE = (
    PublishedLatency("H200", 1, 8192, None, 18.1),
    PublishedLatency("H200", 32, 4096, None, 133),
    PublishedLatency("H200", 64, 8192, None, 488),
    PublishedLatency("H200", 32, 4096, "float8_e4m3", 74.3),
    PublishedLatency("H200", 64, 8192, "float8_e4m3", 255),
    PublishedLatency("H100", 1, 8192, None, 19.8),
    PublishedLatency("H100", 32, 4096, None, 186),
    PublishedLatency("H100", 64, 8192, None, 688),
    PublishedLatency("H100", 32, 4096, "float8_e4m3", 97.6),
    PublishedLatency("H100", 64, 8192, "float8_e4m3", 356),
)
PUBLISHED_PREFILL_TFLOP_PER_S = {"H200": 670.0, "H100": 676.0}


def card_of(device_name: str | None) -> str | None:
    """Return which card with published figures a device is; None for any other, and for a simulated one."""
    if device_name is None or "simulated" in device_name:
        return None
    return next((card for card in CARDS if card in device_name), None)


def published_lines(cells: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield a table of measured cells beside published figures; nothing where no cell has one."""
    rows = [row for cell in cells if cell["latency_ms"] is not None for row in _rows(cell)]
    if not rows:
        return
    yield (
        "| cell | published on this card | ours | ours over published | ours of copy bandwidth"
        " | best peer | ours over it |"
    )
    yield "|---|---:|---:|---:|---:|---|---:|"
    yield from rows


def _rows(cell: dict[str, Any]) -> Iterator[str]:
    card = card_of(cell["device"])
    if card is None or (cell["num_kv_heads"], cell["head_dim"], cell["window"]) != (8, 128, None):
        return
    if cell["workload"] == "prefill":
        published, ours = PUBLISHED_PREFILL_TFLOP_PER_S[card], cell["achieved_tflop_per_s"]
        if ours is not None:
            yield _row(cell, f"{published:.0f} TFLOP/s", f"{ours:.0f} TFLOP/s", ours / published)
        return
    if cell["workload"] != "decode" or cell["page_size"] is not None:
        return
    for figure in PUBLISHED_DECODE:
        shape = (figure.card, figure.batch_size, figure.kv_len, figure.kv_dtype)
        if shape == (card, cell["batch_size"], cell["kv_len"], cell["kv_dtype"]):
            ours_us = cell["latency_ms"] * 1e3
            yield _row(cell, f"{figure.latency_us:g} us", f"{ours_us:.3g} us", ours_us / figure.latency_us)


def _row(cell: dict[str, Any], published: str, ours: str, ratio: float) -> str:
    cache_dtype = cell["kv_dtype"] or cell["dtype"]
    name = f"{cell['workload']}, batch {cell['batch_size']}, kv {cell['kv_len']}, {cache_dtype}"
    of_copy = "-" if cell["workload"] == "prefill" else _share(cell["share_of_copy_bandwidth"])
    return (
        f"| {name} | {published} | {ours} | {ratio:.2f} | {of_copy} | {cell['best_peer'] or '-'}"
        f" | {_share(cell['latency_over_best_peer'])} |"
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
