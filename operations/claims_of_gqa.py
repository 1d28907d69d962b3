"""What runs on a GPU say of the claims of the GQA literature, and of their own soundness: as plain values."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep_parts import PROGRAM, ROOT, Parts

if TYPE_CHECKING:
    import pandas as pd

CLOCKS = ("graph_latency_ms", "kernel_ms")
"""Other ways of timing, which should agree with `latency_ms` where launches and gaps are small beside it."""
AGREEMENT = 0.02
LONG_ENOUGH_MS = 0.1
"""Below, the microseconds between an event and a kernel are more than the agreement asked for."""


def claims(parts: Parts, decode: str, again: str, everything: Iterable[str]) -> dict[str, Any]:
    """From what was measured; null where nothing was."""
    of_decode, of_all = parts.frame_of([decode]), parts.frame_of(everything)
    return {
        "decode_of": None if of_decode is None or of_decode.empty else problem_text(of_decode.iloc[0]),
        "cache_bytes_by_kv_heads": None if of_decode is None else cache_by_heads(of_decode),
        "decode_ms_relative_to_mha": None if of_decode is None else relative_to_mha(of_decode),
        "rows_above_their_roof": None if of_all is None else above_roof(of_all),
        "clocks": None if of_all is None else {clock: agreement(of_all, clock) for clock in CLOCKS},
        "flags": None if of_all is None else of_all["flags"].explode().value_counts().to_dict(),
        "outcomes": None if of_all is None else of_all["outcome"].value_counts().to_dict(),
        "not_ok": None if of_all is None else reasons(of_all),
        "equal_runs": equal_runs(parts.run_of(decode), parts.run_of(again)),
    }


def problem_text(row: pd.Series) -> str:
    """Return what all rows of a study by KV heads have in common."""
    return (
        f"one layer, {row['num_q_heads']} query heads, head_dim {row['head_dim']}, batch {row['batch_size']},"
        f" kv_len {row['kv_len']}, {row['dtype']}, {row['device_name']}"
    )


def cache_by_heads(frame: pd.DataFrame) -> dict[str, list[int]]:
    """Bytes as held, distinct over implementations, by number of KV heads."""
    ok = frame[frame["outcome"] == "ok"]
    return {
        str(heads): sorted(set(map(int, rows)))
        for heads, rows in ok.groupby("num_kv_heads")["kv_cache_bytes"]
    }


def relative_to_mha(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Latency by implementation and number of KV heads, over its own with as many as query heads."""
    ok = frame[frame["outcome"] == "ok"]
    if ok.empty:
        return {}
    table = ok.pivot_table(index="impl", columns="num_kv_heads", values="latency_ms")
    most = ok["num_q_heads"].iloc[0]
    if most not in table:
        return {}
    relative = table.div(table[most], axis=0).dropna(how="all")
    return {
        str(impl): {str(heads): round(value, 4) for heads, value in row.dropna().items()}
        for impl, row in relative.iterrows()
    }


def above_roof(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows that claim more than the machine has."""
    rows = frame[frame["roof_fraction"].astype(float) > 1]
    columns = ["impl", "phase", "batch_size", "kv_len", "num_kv_heads", "roof_fraction"]
    told: list[dict[str, Any]] = json.loads(rows[columns].to_json(orient="records"))
    return told


def agreement(frame: pd.DataFrame, clock: str) -> dict[str, Any] | None:
    """How far another way of timing is from `latency_ms`, over rows of `LONG_ENOUGH_MS`; None without any."""
    rows = frame[(frame["outcome"] == "ok") & (frame["latency_ms"] >= LONG_ENOUGH_MS)]
    rows = rows[rows[clock].notna()]
    if rows.empty:
        return None
    off = (rows[clock].astype(float) / rows["latency_ms"] - 1).abs()
    worst = rows.iloc[int(off.argmax())]
    return {
        "num_rows": len(rows),
        "median_difference": round(float(off.median()), 5),
        "share_within_2_percent": round(float((off <= AGREEMENT).mean()), 4),
        "largest_difference": round(float(off.max()), 4),
        "largest_of": f"{worst['impl']}, {worst['num_kv_heads']} KV heads, kv_len {worst['kv_len']}",
    }


def reasons(frame: pd.DataFrame) -> dict[str, list[str]]:
    """By implementation, why some of its rows are not `ok`."""
    rows = frame[frame["outcome"] != "ok"]
    return {str(impl): sorted(set(map(str, of_impl))) for impl, of_impl in rows.groupby("impl")["reason"]}


def equal_runs(base: Path | None, new: Path | None) -> dict[str, Any] | None:
    """Return what `gqabench compare` makes of two runs of equal code, by metric: every alarm is a false one.

    `change_median` and `change_most` are of the absolute change, as shares: the spread between runs.
    """
    if base is None or new is None:
        return None
    path = new.resolve() / "compared.json"
    command = [*PROGRAM, "compare", str(base.resolve()), str(new.resolve()), "--json", str(path)]
    subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    import pandas as pd

    verdicts = pd.DataFrame(json.loads(path.read_text())["verdicts"])
    told: dict[str, Any] = {}
    for metric, of_metric in verdicts.groupby("metric"):
        changes = of_metric["change"].dropna().astype(float).abs()
        told[str(metric)] = {
            "verdicts": len(of_metric),
            "alarms": int((of_metric["answer"] == "regression").sum()),
            "inconclusive": int((of_metric["answer"] == "inconclusive").sum()),
            "change_median": None if changes.empty else round(float(changes.median()), 5),
            "change_most": None if changes.empty else round(float(changes.max()), 5),
        }
    return told
