"""Our own kernels on a GPU: checked, tuned, and measured beside their peers.

    make bench-kernels ARGS="--json kernels.json --part decode_cells --part prefill"

It runs the tests that need a GPU, then sweeps of `gqabench` in which all implementations of a cell are
interleaved, and writes one JSON file: every cell with our latency, the best peer's, their ratio, the share
of the measured roof, and what that comes to over all cells. `--part` runs some parts, where time is short;
one that is not done within `--seconds` goes on when it is asked for again. The file describes all parts that
have records.

Without a CUDA device it rehearses itself: tiny problems on the CPU, our kernels through Triton's interpreter.
The file then says `rehearsal: true`, and its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sweep_parts import (
    REHEARSAL,
    REHEARSED_MEASURE,
    SHORT_MEASURE,
    Parts,
    is_rehearsal,
    positive_seconds,
    run_script,
)

from gqabench.attention_impls import list_impls

TESTS = "tests"


DECODE_PEERS = ("flash_attn_3", "flashinfer_decode", "flashinfer_xqa", "cudnn_paged")
PREFILL_PEERS = ("flash_attn_3", "sdpa_cudnn")
MORE_DECODE_PEERS = (
    *DECODE_PEERS,
    "sdpa_flash",
    "sdpa_cudnn",
    "folded_sdpa",
    "xformers_splitk",
    "torch_varlen",
    "jax_pallas",
)
MORE_PREFILL_PEERS = (
    *PREFILL_PEERS,
    "sdpa_flash",
    "flex",
    "flashinfer_prefill",
    "flash_attn_4",
    "torch_varlen",
)


@dataclass(frozen=True)
class Part:
    """One sweep over some cells, with one of our kernels and its peers."""

    impl: str
    peers: tuple[str, ...]
    axes: tuple[str, ...]
    rehearsed: tuple[str, ...]


_SHORT = ("kv_len=40", "num_kv_heads=2,1")
PARTS = {
    "decode_cells": Part(
        "triton_decode",
        DECODE_PEERS,
        ("num_kv_heads=8,1", "batch_size=32,64,1", "kv_len=4096,8192"),
        ("batch_size=1", *_SHORT),
    ),
    "quantised": Part(
        "triton_decode",
        (),  # no peer takes a quantised cache yet
        ("kv_dtype=float8_e4m3,int8", "batch_size=32,64", "kv_len=4096,8192"),
        ("batch_size=1", "kv_len=40", "kv_dtype=float8_e4m3"),
    ),
    "prefill": Part(
        "triton_prefill",
        PREFILL_PEERS,
        ("workload=prefill", "batch_size=1,4", "kv_len=8192,2048"),
        ("workload=prefill", "batch_size=1", "kv_len=24"),
    ),
    "decode_long": Part(
        "triton_decode",
        MORE_DECODE_PEERS,
        ("num_kv_heads=8,1", "batch_size=1,4,16", "kv_len=512,2048,32768,65536"),
        ("batch_size=1", *_SHORT),
    ),
    "pages": Part(
        "triton_decode",
        MORE_DECODE_PEERS,
        ("batch_size=16,64", "kv_len=8192", "page_size=16,64,128"),
        ("batch_size=1", "kv_len=40", "page_size=16"),
    ),
    "speculative": Part(
        "triton_decode",
        MORE_DECODE_PEERS,
        ("workload=extend", "batch_size=1,16", "kv_len=8192", "q_len=4,16"),
        ("workload=extend", "batch_size=1", "kv_len=40", "q_len=4"),
    ),
    "prefill_windows": Part(
        "triton_prefill",
        MORE_PREFILL_PEERS,
        ("workload=prefill", "batch_size=1,4", "kv_len=2048,8192", "window=null,1024"),
        ("workload=prefill", "batch_size=1", "kv_len=24", "window=null,8"),
    ),
}
"""In the order in which they are worth having. The twelve cells of `decode_cells` are those of the target.
The cells of public figures (`published_figures.py`) are in the first three parts."""
SMALL_MODEL = ["num_q_heads=2", "num_kv_heads=1", "head_dim=64", "dtype=bfloat16"]
CELL_KEYS = [
    "workload",
    "batch_size",
    "q_len",
    "kv_len",
    "num_kv_heads",
    "head_dim",
    "dtype",
    "kv_dtype",
    "page_size",
    "window",
]
LARGE_CACHE_BYTES = 256_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=[TESTS, *PARTS], action="append", help="default: all")
    parser.add_argument("--json", type=Path, default=Path("kernels.json"), metavar="FILE")
    parser.add_argument("--measure", help="measure preset of the sweeps; default: standard, cut short")
    parser.add_argument("--seconds", type=positive_seconds, default=480.0, help="of one part; default: 480")
    parser.add_argument("--rehearse", action="store_true", help="tiny problems, as without a CUDA device")
    parser.add_argument("--runs", type=Path, default=Path("results/runs"), metavar="FOLDER")
    arguments = parser.parse_args()
    rehearses = is_rehearsal(arguments.rehearse)
    if rehearses:
        os.environ["TRITON_INTERPRET"] = "1"
    report: dict[str, Any] = {"rehearsal": rehearses, "torch": version("torch")}
    parts = Parts((arguments.runs / REHEARSAL if rehearses else arguments.runs) / "kernels")
    for name in arguments.part or [TESTS, *PARTS]:
        if name == TESTS:
            report["tests_passed"] = run_tests(rehearses)
        else:
            parts.measure(name, overrides(PARTS[name], arguments.measure, rehearses), arguments.seconds)
    cells = {name: cells_of(parts, name) for name in PARTS}
    devices = dict.fromkeys(cell["device"] for of_part in cells.values() for cell in of_part)
    report |= cells | {"device": ", ".join(filter(None, devices)), "targets": targets(cells)}
    arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {arguments.json}")
    if rehearses:
        print("a rehearsal without a GPU: its times mean nothing")
    if failures := failures_of(report):
        raise SystemExit("\n".join(failures))


def failures_of(report: dict[str, Any]) -> list[str]:
    """Return what went wrong with our kernels, a line each."""
    failures = ["the tests of the kernels failed"] if report.get("tests_passed") is False else []
    for part in PARTS:
        for cell in report.get(part) or []:
            if cell["outcome"] not in ("ok", "unsupported"):
                failures.append(f"{part}: {PARTS[part].impl} is {cell['outcome']}: {cell['reason']}")
    return list(dict.fromkeys(failures))


def run_tests(is_rehearsal: bool) -> bool:
    """Return the kernels against float64: on the GPU, or through the interpreter."""
    selection = "interpreter" if is_rehearsal else "on_a_gpu"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "tests/attention_impls/test_triton_impls.py",
        "-k",
        selection,
    ]
    return subprocess.run(command, check=False).returncode == 0


def overrides(part: Part, measure: str | None, is_rehearsal: bool) -> list[str]:
    """Of a part's sweep."""
    assert set(part.peers) <= set(list_impls())
    impls = f"impls=[{','.join([part.impl, *part.peers])}]"
    if not is_rehearsal:
        length = SHORT_MEASURE if measure is None else (f"measure={measure}", "measure.energy=false")
        return ["-m", "model=llama3_8b", "device=cuda", *length, *part.axes, impls]
    given = {axis.split("=")[0] for axis in part.rehearsed}
    small = [axis for axis in SMALL_MODEL if axis.split("=")[0] not in given]
    quick = [*REHEARSED_MEASURE, "measure.caches=[warm]"]  # to flush a CPU's would take longer than the rest
    return ["-m", "device=cpu", *quick, *small, *part.rehearsed, impls]


def cells_of(parts: Parts, name: str) -> list[dict[str, Any]]:
    """For each cell of a part where we stand; none where nothing was measured."""
    frame, own = parts.frame_of([name]), PARTS[name].impl
    if frame is None:
        return []
    copy = parts.copy_gb_per_s(name)
    groups = frame.groupby(CELL_KEYS, dropna=False, sort=False)
    return [cell_summary(rows, own, copy) for _, rows in groups if own in set(rows["impl"])]


def cell_summary(rows: Any, own: str, copy_gb_per_s: float | None) -> dict[str, Any]:
    """Return one cell: our record beside the fastest peer's. What was not measured is null."""
    cell = {key: plain(rows.iloc[0][key]) for key in CELL_KEYS}
    ok = rows[rows["outcome"] == "ok"]
    ours, theirs = rows[rows["impl"] == own].iloc[0], ok[ok["impl"] != own]
    best = None if theirs.empty else theirs.loc[theirs["latency_ms"].idxmin()]
    latency_ms = plain(ours["latency_ms"])
    ratio = None if best is None or latency_ms is None else latency_ms / float(best["latency_ms"])
    achieved = plain(ours["achieved_gb_per_s"])
    of_copy = None if achieved is None or copy_gb_per_s is None else achieved / copy_gb_per_s
    return cell | {
        "device": plain(ours["device_name"]),
        "outcome": ours["outcome"],
        "reason": plain(ours["reason"]),
        "latency_ms": latency_ms,
        "achieved_gb_per_s": achieved,
        "achieved_tflop_per_s": plain(ours["achieved_tflop_per_s"]),
        "share_of_copy_bandwidth": of_copy,
        "roof_fraction": plain(ours["roof_fraction"]),
        "kv_cache_bytes": plain(ours["kv_cache_bytes"]),
        "peak_workspace_bytes": plain(ours["peak_workspace_bytes"]),
        "kernel_config": plain(ours["kernel_config"]),
        "autotune_ms": plain(ours["autotune_ms"]),
        "best_peer": None if best is None else best["impl"],
        "best_peer_latency_ms": None if best is None else float(best["latency_ms"]),
        "latency_over_best_peer": ratio,
        "not_ok": {row["impl"]: row["reason"] for _, row in rows[rows["outcome"] != "ok"].iterrows()},
    }


def targets(cells: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return what we aim at, from the cells that were measured; null where none was."""
    ratios = ratios_of(cells["decode_cells"])
    large = [
        cell["share_of_copy_bandwidth"]
        for cell in cells["decode_cells"]
        if (cell["kv_cache_bytes"] or 0) > LARGE_CACHE_BYTES and cell["share_of_copy_bandwidth"] is not None
    ]
    return {
        "least_share_of_copy_bandwidth_above_256_mb": min(large, default=None),
        "decode_cells": len(ratios),
        "decode_cells_within_5_percent": sum(ratio <= 1.05 for ratio in ratios) if ratios else None,
        "decode_cells_ahead": sum(ratio < 1 for ratio in ratios) if ratios else None,
        "least_float8_gain": min(float8_gains(cells), default=None),
        "worst_prefill_over_best_peer": max(ratios_of(cells["prefill"]), default=None),
    }


def ratios_of(cells: list[dict[str, Any]]) -> list[float]:
    """Our latency over the best peer's, where both were measured."""
    return [cell["latency_over_best_peer"] for cell in cells if cell["latency_over_best_peer"] is not None]


def float8_gains(cells: dict[str, list[dict[str, Any]]]) -> list[float]:
    """Return how many times as fast a float8 cache is as an unquantised one of the same shape."""
    plain_ms = {
        (cell["batch_size"], cell["kv_len"]): cell["latency_ms"]
        for cell in cells["decode_cells"]
        if cell["num_kv_heads"] == 8 and cell["latency_ms"] is not None
    }
    return [
        plain_ms[shape] / cell["latency_ms"]
        for cell in cells["quantised"]
        if cell["kv_dtype"] == "float8_e4m3" and cell["latency_ms"] is not None
        if (shape := (cell["batch_size"], cell["kv_len"])) in plain_ms
    ]


def plain(value: Any) -> Any:
    """Return a value of a frame for JSON: null where it is missing."""
    import pandas as pd  # which the frame has loaded

    if value is None or pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


if __name__ == "__main__":
    run_script(main)
