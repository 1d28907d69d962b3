"""Our own kernels on a GPU: checked, tuned, and measured beside their peers.

    make bench-kernels ARGS="--json kernels.json --part decode_1 --part decode_4"

It runs the tests that need a GPU, then sweeps of `gqabench` in which all implementations of a cell are
interleaved, and writes one JSON file: every cell with our latency, the best peer's, their ratio, the share
of the measured roof, and what that comes to over all cells. `--part` runs some parts, where time is short;
one that is not done within `--seconds` goes on when it is asked for again. The file tells of all parts that
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
from pathlib import Path
from typing import Any

import pandas as pd
from sweep_parts import REHEARSAL, Parts, is_rehearsal, positive_seconds, run_script

from gqabench.attention_impls import list_impls

TESTS = "tests"


@dataclass(frozen=True)
class Part:
    """One sweep over some cells."""

    impl: str
    axes: tuple[str, ...]
    rehearsed: tuple[str, ...]


_SHORT = ("kv_len=40", "num_kv_heads=2,1")
PARTS = {
    **{
        f"decode_{batch_size}": Part(
            "triton_decode",
            (f"batch_size={batch_size}", f"kv_len=512,2048,8192,32768{longest}", "num_kv_heads=8,1"),
            (f"batch_size={min(batch_size, 2)}", *_SHORT),
        )
        for batch_size, longest in ((1, ",65536"), (4, ",65536"), (16, ",65536"), (64, ""))
    },
    "float8": Part(
        "triton_decode",
        ("batch_size=16,64", "kv_len=8192,32768", "kv_dtype=null,float8_e4m3,int8"),
        ("batch_size=1", "kv_len=40", "kv_dtype=null,float8_e4m3"),
    ),
    "pages": Part(
        "triton_decode",
        ("batch_size=16,64", "kv_len=8192", "page_size=16,64,128"),
        ("batch_size=1", "kv_len=40", "page_size=16"),
    ),
    "speculative": Part(
        "triton_decode",
        ("workload=extend", "batch_size=1,16", "kv_len=8192", "q_len=4,16"),
        ("workload=extend", "batch_size=1", "kv_len=40", "q_len=4"),
    ),
    "prefill": Part(
        "triton_prefill",
        ("workload=prefill", "batch_size=1,4", "kv_len=2048,8192", "window=null,1024"),
        ("workload=prefill", "batch_size=1", "kv_len=24", "window=null,8"),
    ),
}
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
    parser.add_argument("--part", choices=[TESTS, *PARTS], action="append", help="default: all")
    parser.add_argument("--json", type=Path, default=Path("kernels.json"), metavar="FILE")
    parser.add_argument("--measure", default="standard", help="measure preset of the sweeps")
    parser.add_argument("--seconds", type=positive_seconds, default=480.0, help="of one part; default: 480")
    parser.add_argument("--rehearse", action="store_true", help="tiny problems, as without a CUDA device")
    parser.add_argument("--runs", type=Path, default=Path("results/runs"), metavar="FOLDER")
    arguments = parser.parse_args()
    import torch

    rehearses = is_rehearsal(arguments.rehearse)
    if rehearses:
        os.environ["TRITON_INTERPRET"] = "1"
    device = "no CUDA device" if rehearses else torch.cuda.get_device_name()
    report: dict[str, Any] = {"rehearsal": rehearses, "device": device, "torch": torch.__version__}
    parts = Parts((arguments.runs / REHEARSAL if rehearses else arguments.runs) / "kernels")
    for name in arguments.part or [TESTS, *PARTS]:
        if name == TESTS:
            report["tests_passed"] = run_tests(rehearses)
        else:
            parts.measure(name, overrides(PARTS[name], arguments.measure, rehearses), arguments.seconds)
    cells = {name: cells_of(parts, name) for name in PARTS}
    report |= cells | {"targets": targets(cells)}
    arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {arguments.json}")
    if rehearses:
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


def overrides(part: Part, measure: str, is_rehearsal: bool) -> list[str]:
    """Of a part's sweep."""
    peers = PEERS["prefill" if part.impl == "triton_prefill" else "decode"]
    assert set(peers) <= set(list_impls())
    impls = f"impls=[{','.join([part.impl, *peers])}]"
    if not is_rehearsal:
        settings = ["model=llama3_8b", "device=cuda", f"measure={measure}", "measure.energy=false"]
        return ["-m", *settings, *part.axes, impls]
    given = {axis.split("=")[0] for axis in part.rehearsed}
    small = [axis for axis in SMALL_MODEL if axis.split("=")[0] not in given]
    return ["-m", "device=cpu", "measure=smoke", *small, *part.rehearsed, impls]


def cells_of(parts: Parts, name: str) -> list[dict[str, Any]]:
    """For each cell of a part where we stand; none where nothing was measured."""
    frame, own = parts.frame_of([name]), PARTS[name].impl
    if frame is None:
        return []
    groups = frame.groupby(CELL_KEYS, dropna=False, sort=False)
    return [cell_summary(rows, own) for _, rows in groups if own in set(rows["impl"])]


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


def targets(cells: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What we aim at, from the cells that were measured; null where none was."""
    decode = [cell for name, of_part in cells.items() if name.startswith("decode") for cell in of_part]
    ratios = ratios_of(decode)
    large = [
        cell["roof_fraction"] for cell in decode
        if (cell["kv_cache_bytes"] or 0) > LARGE_CACHE_BYTES and cell["roof_fraction"] is not None
    ]  # fmt: skip
    return {
        "least_roof_fraction_above_256_mb": min(large, default=None),
        "decode_cells": len(ratios),
        "decode_cells_within_3_percent": sum(ratio <= 1.03 for ratio in ratios) if ratios else None,
        "decode_cells_ahead": sum(ratio < 1 for ratio in ratios) if ratios else None,
        "least_float8_gain": min(float8_gains(cells["float8"]), default=None),
        "worst_prefill_over_best_peer": max(ratios_of(cells["prefill"]), default=None),
    }


def ratios_of(cells: list[dict[str, Any]]) -> list[float]:
    """Our latency over the best peer's, where both were measured."""
    return [cell["latency_over_best_peer"] for cell in cells if cell["latency_over_best_peer"] is not None]


def float8_gains(cells: list[dict[str, Any]]) -> list[float]:
    """How many times as fast a float8 cache is as an unquantised one of the same shape."""
    by_shape: dict[tuple[int, int], dict[Any, float]] = {}
    for cell in cells:
        if cell["latency_ms"] is not None:
            times = by_shape.setdefault((cell["batch_size"], cell["kv_len"]), {})
            times[cell["kv_dtype"]] = cell["latency_ms"]
    both = [times for times in by_shape.values() if {None, "float8_e4m3"} <= times.keys()]
    return [times[None] / times["float8_e4m3"] for times in both]


def plain(value: Any) -> Any:
    """A value of a frame for JSON: null where it is missing."""
    if value is None or pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


if __name__ == "__main__":
    run_script(main)
