"""The words of a report, and how its numbers came about."""

from __future__ import annotations

import pandas as pd

from gqabench.reports.frames.tidy import SEQUENCES, ok_rows
from gqabench.reports.tables.results_table import shown_measures
from gqabench.reports.units import MISSING, count_text, digits_text, is_missing, listed, plural
from gqabench.results.columns import COLUMNS

CONCEPTS = (
    (
        "MHA, GQA, MQA",
        "As many KV heads as query heads; several query heads to one KV head; a single KV head for all.",
    ),
    ("group size", COLUMNS["group_size"].about),
    ("decode, prefill, extend", "One new token; all tokens new; some new tokens after cached ones."),
    ("context", "Keys visible in all, cached and new (kv_len). 4K is 4096 tokens."),
    (
        "impl",
        "A named attention implementation; with its environment (interpreter, packages, code) it is an arm.",
    ),
    (
        "generate",
        "A call is one decode step of a Hugging Face model with random weights and as many layers as are "
        "named: latency, tokens/s, workspace, GB/s and TFLOP/s are the model's, the cache is of one layer.",
    ),
)
"""Words that are no columns."""

NOT_MEASURED = (MISSING, "Not measured.")


def method_notes(frame: pd.DataFrame) -> list[str]:
    """Return how the rows of a tidy frame were measured, as far as they say."""
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
    notes.append("Workspace was measured in a pass of its own. What was not measured is shown as –, never 0.")
    return notes


def _check_note(rows: pd.DataFrame) -> str:
    """Return what of the outputs was compared with the reference."""
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
    """Return what was seen of the device and of other processes, where it was."""
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


def glossary_of(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the words that a report of this frame uses: concepts, then the columns of its results."""
    has_model = frame["hf_cache"].notna().any()
    concepts = [entry for entry in CONCEPTS if has_model or entry[0] != "generate"]
    columns = [(measure.heading, measure.about) for measure in shown_measures(ok_rows(frame))]
    return [*concepts, *columns, NOT_MEASURED]
