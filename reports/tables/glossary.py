"""The words of a report, and how its numbers came about."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gqabench.reports.frames.tidy import SEQUENCES, ok_rows
from gqabench.reports.units import count_text, digits_text, is_missing, listed, plural
from gqabench.results.flags import FLAG_MEANINGS as FLAG_MEANINGS

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
        "generate",
        "a call is one decode step of a Hugging Face model with random weights and as many layers as are "
        "named: latency, tokens/s, workspace, GB/s and TFLOP/s are the model's, the cache is of one layer.",
    ),
    (
        "prefill (ms)",
        "median wall time of that model on the context less its last token, into a new cache, which counts "
        "in the prefill's workspace.",
    ),
    (
        "GB/s, TFLOP/s",
        "bytes and operations that the problem needs at least, over the latency. GB is 10^9, GiB is 2^30.",
    ),
    (
        "% of roof",
        "achieved rate as a share of the measured ceiling of this machine that bounds the problem: of "
        "reading memory or of multiplying matrices.",
    ),
    ("warm", "median time of the same calls without flushing the caches before each."),
    (
        "graph",
        "median time of the same calls captured as a CUDA graph, each after a flush: no launches between.",
    ),
    ("kernels", "median of what the kernels of a call take by CUPTI, without the gaps between them."),
    ("eager", "median wall time of a call and of waiting for it, launches included: what a caller sees."),
    ("energy", "what the device drew for one call, less what it draws when idle; per token, of new tokens."),
    ("error ratio", "the worst error from a float64 reference over its budget: up to 1 is correct."),
    ("checked queries", "query positions per sequence whose outputs were compared with the reference."),
    ("error / budget", "largest absolute difference from a float64 reference, and what the dtype allows."),
    (
        "quantisation error",
        "largest absolute difference that quantising K and V makes to the float64 reference; the error ratio "
        "is of an implementation's own errors, on the quantised cache.",
    ),
    ("flags", "doubts about a measurement, by name."),
    ("–", "not measured."),
)


def method_notes(frame: pd.DataFrame) -> list[str]:
    """How the rows of a tidy frame were measured, as far as they say."""
    rows = ok_rows(frame)
    notes = [_check_note(rows)]
    for column, what in (
        ("timing_method", "Timing"),
        ("cache_state", "Caches before each call"),
        ("measure", "Effort"),
    ):
        if values := _values(rows, column):
            notes.append(f"{what}: {listed(values)}.")
    samples = rows["num_samples"].dropna()
    if len(samples):
        notes.append(f"Samples of each latency: {_range_text(samples)}. The latency is their median.")
    notes.append(
        "The interval is that of the median at 95 %, from interpolated order statistics: no distribution is "
        "assumed."
    )
    notes += _condition_notes(rows)
    notes.append("Workspace was measured in a pass of its own. What was not measured reads –, never 0.")
    return notes


def _check_note(rows: pd.DataFrame) -> str:
    """What of the outputs was compared with the reference."""
    sampled = rows[rows["num_sampled_queries"].notna()]
    text = (
        "The output of every row was checked against a float64 reference on the same inputs before it was "
        "timed; what was wrong was not timed."
    )
    if len(sampled) == 0:
        return text
    pairs = sampled[["num_sampled_queries", "q_len"]].drop_duplicates().sort_values("q_len", kind="stable")
    counts = [f"{count_text(checked)} of {count_text(q_len)}" for checked, q_len in pairs.to_numpy()]
    return (
        f"{text} In {count_text(len(sampled))} of {plural(len(rows), 'row')} it was checked at some queries: "
        f"{listed(counts)} queries per sequence, first and last among them."
    )


def _condition_notes(rows: pd.DataFrame) -> list[str]:
    """What was seen of the device and of other processes, where it was."""
    notes = []
    if len(clocks := rows["clock_mhz"].dropna()):
        notes.append(f"Clock while timing: {_range_text(clocks)} MHz (median of each row).")
    seen = [names for names in rows["throttle_reasons"] if isinstance(names, SEQUENCES)]
    if reasons := list(dict.fromkeys(str(name) for names in seen for name in names)):
        notes.append(f"Reasons for lower clocks that were active in some row: {listed(reasons)}.")
    if len(load := rows["background_load"].dropna()):
        notes.append(
            f"Other processes kept up to {digits_text(load.max(), 2)} cores busy while a row was timed."
        )
    return notes


def _range_text(values: pd.Series[float]) -> str:
    low, high = count_text(values.min()), count_text(values.max())
    return low if low == high else f"{low} to {high}"


def _values(rows: pd.DataFrame, column: str) -> list[str]:
    return [str(value) for value in dict.fromkeys(rows[column]) if not is_missing(value)]


_NEEDS = {
    "generate": "hf_cache",
    "prefill (ms)": "prefill_ms",
    "% of roof": "roof_fraction",
    "warm": "warm_latency_ms",
    "graph": "graph_latency_ms",
    "kernels": "kernel_ms",
    "eager": "eager_ms",
    "energy": "energy_j_per_call",
    "error ratio": "error_ratio",
    "quantisation error": "quantisation_error",
    "checked queries": "num_sampled_queries",
}
"""Columns without which a word is not used."""


def glossary_of(frame: pd.DataFrame) -> tuple[tuple[str, Any], ...]:
    """The words that a report of this frame uses."""
    unused = {word for word, column in _NEEDS.items() if not frame[column].notna().any()}
    if "error ratio" not in unused:
        unused.add("error / budget")
    return tuple(entry for entry in GLOSSARY if entry[0] not in unused)
