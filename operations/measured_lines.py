"""What sweeps on a GPU found, as lines of a page: the claims of GQA, our kernels, models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from published_figures import published_lines


def claim_lines(folder: Path) -> Iterator[str]:
    """Return what the reference runs say of the literature, of the clocks, and of two equal runs."""
    if (claims := read_report(folder / "claims.json")) is None:
        return
    yield from _rehearsed(claims)
    yield f"Decode by number of KV heads: {claims['decode_of']}. Times are medians of cold calls, by events."
    yield ""
    yield from _by_heads(claims["cache_bytes_by_kv_heads"], claims["decode_ms_relative_to_mha"])
    num_rows = sum((claims["outcomes"] or {}).values())
    yield f"- Of {num_rows} rows: {_counts(claims['outcomes'])}. Flags: {_counts(claims['flags'])}."
    yield f"- Rows above their roof: {len(claims['rows_above_their_roof'] or ())}."
    for clock, agreement in (claims["clocks"] or {}).items():
        yield f"- `{clock}` beside `latency_ms`: {_agreement(agreement)}"
    for metric, seen in (claims["equal_runs"] or {}).items():
        spread = "" if seen["change_most"] is None else (
            f"; changes of {seen['change_median']:.2%} in the median, {seen['change_most']:.2%} at most"
        )  # fmt: skip
        yield (
            f"- Two equal runs, `{metric}`: {seen['alarms']} false alarms and {seen['inconclusive']}"
            f" inconclusive of {seen['verdicts']} verdicts{spread}."
        )
    for impl, reasons in (claims["not_ok"] or {}).items():
        yield f"- `{impl}`, where it did not run: {'; '.join(reason[:300] for reason in reasons)}"


def kernel_lines(folder: Path) -> Iterator[str]:
    """How our kernels stand to their targets and to the best of the others."""
    if (report := read_report(folder / "kernels.json")) is None:
        return
    yield from _rehearsed(report)
    device = report["device"] or "nothing yet"
    yield f"Llama-3-8B's heads in bfloat16, on {device}; medians of cold calls in ms, by events."
    yield ""
    for name, value in report["targets"].items():
        yield f"- {name.replace('_', ' ')}: {'not measured' if value is None else _rounded(value)}"
    cells = [
        (part, cell) for part, of_part in report.items() if isinstance(of_part, list) for cell in of_part
    ]
    if cells:
        yield ""
        yield (
            "| part | cache | batch | q_len | kv_len | KV heads | ms | of roof | of copy bandwidth"
            " | best of others | ours over it |"
        )
        yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---|---:|"
    for part, cell in cells:
        shape = " | ".join(str(cell[key]) for key in ("batch_size", "q_len", "kv_len", "num_kv_heads"))
        cache = cell["kv_dtype"] or cell["dtype"]
        numbers = (cell["latency_ms"], cell["roof_fraction"], cell["share_of_copy_bandwidth"])
        yield (
            f"| {part} | {cache} | {shape} | {' | '.join(map(_rounded, numbers))}"
            f" | {cell['best_peer'] or '-'} | {_rounded(cell['latency_over_best_peer'])} |"
        )


def published_comparison_lines(folder: Path) -> Iterator[str]:
    """Yield our kernels beside the highest public figures for the card that was measured."""
    if (report := read_report(folder / "kernels.json")) is None:
        return
    yield from _rehearsed(report)
    cells = [cell for of_part in report.values() if isinstance(of_part, list) for cell in of_part]
    lines = list(published_lines(cells))
    yield from lines or ["No cell of a card with public figures was measured."]


def model_lines(folder: Path) -> Iterator[str]:
    """Yield the fastest decode of each model's distinct layers, and what of the models is left out."""
    if (report := read_report(folder / "models.json")) is None:
        return
    yield from _rehearsed(report)
    if report["layers"]:
        yield "| layer | batch | kv_len | fastest | ms | GB/s | of copy bandwidth | `triton_decode` over it |"
        yield "|---|---:|---:|---|---:|---:|---:|---:|"
    for layer in report["layers"]:
        best_ms = layer["latency_ms"].get(layer["best"])
        ours_ms = layer["latency_ms"].get("triton_decode")
        ours = None if None in (best_ms, ours_ms) else ours_ms / best_ms
        numbers = (best_ms, layer["achieved_gb_per_s"], layer["share_of_copy_bandwidth"], ours)
        yield (
            f"| {layer['model']} | {layer['batch_size']} | {layer['kv_len']} | {layer['best'] or '-'}"
            f" | {' | '.join(map(_rounded, numbers))} |"
        )
    yield ""
    for model, what in report["left_out"].items():
        yield f"- Left out, {model}: {what}."


def read_report(path: Path) -> dict[str, Any] | None:
    """Return what a step has written; None while it has not."""
    return json.loads(path.read_text()) if path.exists() else None


def _rehearsed(report: dict[str, Any]) -> Iterator[str]:
    if report["rehearsal"]:
        yield "**Rehearsed on tiny problems: these numbers mean nothing.**"
        yield ""


def _by_heads(cache: dict[str, list[int]] | None, times: dict[str, dict[str, float]] | None) -> Iterator[str]:
    if not cache:
        return
    heads = sorted(cache, key=int, reverse=True)
    yield f"| KV heads | {' | '.join(heads)} |"
    yield f"|---|{'---:|' * len(heads)}"
    least = [min(cache[number]) / 2**20 for number in heads]
    yield f"| cache of a layer as held, the least, MiB | {' | '.join(f'{mib:.4g}' for mib in least)} |"
    for impl, of_impl in (times or {}).items():
        cells = [_rounded(of_impl.get(number)) for number in heads]
        yield f"| decode time relative to MHA, `{impl}` | {' | '.join(cells)} |"
    yield ""


def _agreement(seen: dict[str, Any] | None) -> str:
    if seen is None:
        return "no rows long enough."
    return (
        f"{seen['num_rows']} rows, median difference {seen['median_difference']:.2%},"
        f" {seen['share_within_2_percent']:.0%} within 2 %, at most {seen['largest_difference']:.1%}"
        f" ({seen['largest_of']})."
    )


def _counts(counts: dict[str, int] | None) -> str:
    return ", ".join(f"{number} {name}" for name, number in (counts or {}).items()) or "none"


def _rounded(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
