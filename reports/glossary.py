"""The words of a report, and how its numbers came about."""

from __future__ import annotations

from typing import Any

import pandas as pd

from reports.tidy import ok_rows
from reports.units import count_text, is_missing, listed
from results.flags import FLAG_MEANINGS as FLAG_MEANINGS

GLOSSARY = (
    (
        "MHA, GQA, MQA",
        "as many KV heads as query heads; several query heads to one KV head; a single KV head for all.",
    ),
    ("group size", "query heads that share one KV head: num_q_heads / num_kv_heads."),
    ("decode, prefill, extend", "one new token; all tokens new; some new tokens after cached ones."),
    ("context", "keys visible in all, cached and new (kv_len). 4K is 4096 tokens."),
    (
        "impl",
        "a named attention implementation; with its environment (interpreter, packages, code) it is an arm.",
    ),
    ("KV cache", "bytes of K and V of one layer: by the formula, and as the implementation holds them."),
    (
        "workspace",
        "allocator peak of one call less what was resident before it: its output and all temporaries.",
    ),
    ("latency", "median time of one call of one layer; the interval is that of the median, at 95 %."),
    (
        "GB/s, TFLOP/s",
        "bytes and operations that the problem needs at least, over the latency. GB is 10^9, GiB is 2^30.",
    ),
    ("of roof", "achieved rate as a share of what this machine was measured to reach."),
    ("error / budget", "largest absolute difference from a float64 reference, and what the dtype allows."),
    ("flags", "doubts about a measurement, by name."),
    ("–", "not measured."),
)


def method_notes(frame: pd.DataFrame) -> list[str]:
    """How the rows of a tidy frame were measured, as far as they say."""
    rows = ok_rows(frame)
    notes = [
        "Every output was checked against a float64 reference on the same inputs before it was timed; what "
        "was wrong was not timed.",
    ]
    for column, what in (
        ("timing_method", "Timing"),
        ("cache_state", "Caches before each call"),
        ("measure", "Effort"),
    ):
        if values := _values(rows, column):
            notes.append(f"{what}: {listed(values)}.")
    samples = rows["num_samples"].dropna()
    if len(samples):
        low, high = count_text(samples.min()), count_text(samples.max())
        number = low if low == high else f"{low} to {high}"
        notes.append(f"Samples of each latency: {number}. The latency is their median.")
    notes.append(
        "The interval is that of the median at 95 %, from interpolated order statistics: no distribution is "
        "assumed."
    )
    notes.append("Workspace was measured in a pass of its own. What was not measured reads –, never 0.")
    return notes


def _values(rows: pd.DataFrame, column: str) -> list[str]:
    return [str(value) for value in dict.fromkeys(rows[column]) if not is_missing(value)]


def glossary_of(frame: pd.DataFrame) -> tuple[tuple[str, Any], ...]:
    """The words that a report of this frame uses."""
    unused = {"of roof"} if not frame["roof_fraction"].notna().any() else set()
    return tuple(entry for entry in GLOSSARY if entry[0] not in unused)
