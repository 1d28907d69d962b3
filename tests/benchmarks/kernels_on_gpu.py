"""Our own kernels on a GPU, in one command: checked, tuned, and measured beside their peers.

    make bench-kernels ARGS="--json kernels.json"

It runs the tests that need a GPU, then sweeps of `gqabench` in which all implementations of a cell are
interleaved, and writes one JSON file: every cell with our latency, the best peer's, their ratio, the share
of the measured roof, and what that comes to over all cells. `--part` runs one part, where time is short.

Without a CUDA device it rehearses itself: tiny problems on the CPU, our kernels through Triton's interpreter.
The file then says `rehearsal: true`, and its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

PARTS = {
    "decode": {
        "impl": "triton_decode",
        "axes": ["batch_size=1,4,16,64", "kv_len=512,2048,8192,32768,65536", "num_kv_heads=8,1"],
        "rehearsed": ["batch_size=1,2", "kv_len=40", "num_kv_heads=2,1"],
    },
    "float8": {
        "impl": "triton_decode",
        "axes": ["batch_size=16,64", "kv_len=8192,32768", "kv_dtype=null,float8_e4m3,int8"],
        "rehearsed": ["batch_size=1", "kv_len=40", "kv_dtype=null,float8_e4m3"],
    },
    "pages": {
        "impl": "triton_decode",
        "axes": ["batch_size=16,64", "kv_len=8192", "page_size=16,64,128"],
        "rehearsed": ["batch_size=1", "kv_len=40", "page_size=16"],
    },
    "speculative": {
        "impl": "triton_decode",
        "axes": ["workload=extend", "batch_size=1,16", "kv_len=8192", "q_len=4,16"],
        "rehearsed": ["workload=extend", "batch_size=1", "kv_len=40", "q_len=4"],
    },
    "prefill": {
        "impl": "triton_prefill",
        "axes": ["workload=prefill", "batch_size=1,4", "kv_len=2048,8192", "window=null,1024"],
        "rehearsed": ["workload=prefill", "batch_size=1", "kv_len=24", "window=null,8"],
    },
}  # fmt: skip
PEERS = {
    "decode": (
        "sdpa", "sdpa_flash", "sdpa_cudnn", "folded_sdpa", "flex", "flashinfer_decode", "flashinfer_xqa",
        "flash_attn_2", "flash_attn_3", "xformers_splitk", "cudnn_paged", "torch_varlen", "jax_pallas",
        "paged_grouped", "grouped_matmul",
    ),
    "prefill": (
        "sdpa_flash", "sdpa_cudnn", "flex", "flashinfer_prefill", "flash_attn_3", "flash_attn_4",
        "torch_varlen",
    ),
}  # fmt: skip
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
    parser.add_argument("--part", choices=["tests", *PARTS], action="append", help="default: all")
    parser.add_argument("--json", type=Path, default=Path("kernels.json"), metavar="FILE")
    parser.add_argument("--measure", default="standard", help="measure preset of the sweeps")
    arguments = parser.parse_args()
    import torch

    is_rehearsal = not torch.cuda.is_available()
    device = "no CUDA device" if is_rehearsal else torch.cuda.get_device_name()
    report: dict[str, Any] = {"rehearsal": is_rehearsal, "device": device, "torch": torch.__version__}
    for part in arguments.part or ["tests", *PARTS]:
        if part == "tests":
            report["tests_passed"] = run_tests(is_rehearsal)
        else:
            report[part] = measure_part(part, arguments.measure, is_rehearsal)
        arguments.json.write_text(json.dumps(report | {"targets": targets(report)}, indent=1) + "\n")
    print(f"written: {arguments.json}")
    if is_rehearsal:
        print("a rehearsal without a GPU: its times mean nothing")
    if failures := failures_of(report):
        raise SystemExit("\n".join(failures))


def failures_of(report: dict[str, Any]) -> list[str]:
    """What went wrong with our kernels, a line each."""
    failures = ["the tests of the kernels failed"] if report.get("tests_passed") is False else []
    for part in PARTS:
        for cell in report.get(part) or []:
            if cell["outcome"] not in ("ok", "unsupported"):
                failures.append(f"{part}: {PARTS[part]['impl']} is {cell['outcome']}: {cell['reason']}")
    return list(dict.fromkeys(failures))


def run_tests(is_rehearsal: bool) -> bool:
    """The kernels against float64: on the GPU, or through the interpreter."""
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


def measure_part(part: str, measure: str, is_rehearsal: bool) -> list[dict[str, Any]]:
    """Sweep one part, and say for each cell where we stand."""
    from attention_impls import list_impls
    from results import load

    spec = PARTS[part]
    own = str(spec["impl"])
    peers = PEERS["prefill" if own == "triton_prefill" else "decode"]
    assert set(peers) <= set(list_impls())
    axes = list(spec["rehearsed" if is_rehearsal else "axes"])
    if is_rehearsal:
        axes = [
            axis for axis in SMALL_MODEL if axis.split("=")[0] not in {a.split("=")[0] for a in axes}
        ] + axes
    settings = (
        ["device=cpu", "measure=smoke"]
        if is_rehearsal
        else ["model=llama3_8b", "device=cuda", f"measure={measure}"]
    )
    command = [
        sys.executable, "-c", "import sys; from harness.cli import main; sys.exit(main())",
        "sweep", "-m", *settings, *axes, f"impls=[{','.join([own, *peers])}]",
    ]  # fmt: skip
    environment = os.environ | ({"TRITON_INTERPRET": "1"} if is_rehearsal else {})
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    runs = [line.removeprefix("run: ") for line in result.stdout.splitlines() if line.startswith("run: ")]
    if not runs:
        raise SystemExit(f"{part}: the sweep wrote no run; it ended with exit code {result.returncode}")
    frame = load(runs[-1])
    return [cell_summary(rows, own) for _, rows in frame.groupby(CELL_KEYS, dropna=False, sort=False)]


def cell_summary(rows: Any, own: str) -> dict[str, Any]:
    """One cell: our record beside the fastest peer's. What was not measured is null."""
    cell = {key: plain(rows.iloc[0][key]) for key in CELL_KEYS}
    ok = rows[rows["outcome"] == "ok"]
    ours, theirs = rows[rows["impl"] == own].iloc[0], ok[ok["impl"] != own]
    best = None if theirs.empty else theirs.loc[theirs["latency_ms"].idxmin()]
    latency_ms = plain(ours["latency_ms"])
    ratio = None if best is None or latency_ms is None else latency_ms / float(best["latency_ms"])
    return cell | {
        "outcome": ours["outcome"],
        "reason": plain(ours["reason"]),
        "latency_ms": latency_ms,
        "achieved_gb_per_s": plain(ours["achieved_gb_per_s"]),
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


def targets(report: dict[str, Any]) -> dict[str, Any]:
    """What we aim at, from the cells that were measured; null where none was."""
    decode, prefill, float8 = (report.get(part) or [] for part in ("decode", "prefill", "float8"))
    ratios = [cell["latency_over_best_peer"] for cell in decode if cell["latency_over_best_peer"] is not None]
    large = [
        cell["roof_fraction"] for cell in decode
        if (cell["kv_cache_bytes"] or 0) > LARGE_CACHE_BYTES and cell["roof_fraction"] is not None
    ]  # fmt: skip
    slowest_prefill = [
        c["latency_over_best_peer"] for c in prefill if c["latency_over_best_peer"] is not None
    ]
    by_shape: dict[tuple[int, int], dict[Any, float]] = {}
    for cell in float8:
        if cell["latency_ms"] is not None:
            by_shape.setdefault((cell["batch_size"], cell["kv_len"]), {})[cell["kv_dtype"]] = cell[
                "latency_ms"
            ]
    gains = [
        times[None] / times["float8_e4m3"]
        for times in by_shape.values()
        if {None, "float8_e4m3"} <= times.keys()
    ]
    return {
        "least_roof_fraction_above_256_mb": min(large, default=None),
        "decode_cells": len(ratios),
        "decode_cells_within_3_percent": sum(ratio <= 1.03 for ratio in ratios) if ratios else None,
        "decode_cells_ahead": sum(ratio < 1 for ratio in ratios) if ratios else None,
        "least_float8_gain": min(gains, default=None),
        "worst_prefill_over_best_peer": max(slowest_prefill, default=None),
    }


def plain(value: Any) -> Any:
    """A value of a frame for JSON: null where it is missing."""
    if value is None or pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


if __name__ == "__main__":
    main()
