"""The distinct layers of models of 2025, decoding at batch 1 and 32: measured on a GPU, one sweep.

    python operations/model_layers.py --seconds 330 --json models.json

The layers are model presets in the folder `layers`. What of a model today's problem cannot express stands in
`LEFT_OUT`, and in the file that is written. A sweep that is interrupted goes on when it is asked for again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from kernels_on_gpu import DECODE_PEERS, plain
from sweep_parts import (
    REHEARSAL,
    REHEARSED_MEASURE,
    SHORT_MEASURE,
    Parts,
    from_root,
    is_rehearsal,
    positive_seconds,
    run_script,
)

LAYERS = (
    "gpt_oss_120b_full",
    "qwen3_32b",
    "gemma3_27b_full",
    "llama4_full",
    "gpt_oss_120b_s128",
    "gemma3_27b_s1024",
)
"""In the order in which they are worth having."""
REHEARSED_LAYERS = ("qwen3_32b", "gpt_oss_120b_s128")
LEFT_OUT = {
    "gpt-oss-120b": "the sinks: one logit for each query head that joins the softmax's sum",
    "Gemma 3 27B": "its softmax scale, 168^-0.5, which changes no time",
    "Llama 4": "the chunks of 8192 tokens in 36 of 48 layers, beyond 8192 tokens",
    "DeepSeek": "all of it: one KV head of width 576 whose first 512 columns are V (MLA as MQA)",
}
"""What today's problem cannot express."""
PART = "model_layers"
IMPLS = ("triton_decode", *DECODE_PEERS)


def overrides(rehearses: bool) -> list[str]:
    """Return those of the sweep."""
    presets = Path(__file__).parent / "layers"
    axes = [f"model={','.join(REHEARSED_LAYERS if rehearses else LAYERS)}", "workload=decode"]
    common = ["-m", "--config-dir", from_root(presets), *axes]
    if rehearses:
        return [*common, "batch_size=1", "kv_len=48", *REHEARSED_MEASURE, "impls=[sdpa]"]
    batches = ["batch_size=32,1", "kv_len=8192"]
    return [*common, *batches, "device=cuda", *SHORT_MEASURE, f"impls=[{','.join(IMPLS)}]"]


def layers_of(parts: Parts) -> list[dict[str, Any]]:
    """Return the latencies of each layer and batch by implementation; null where one did not run."""
    frame = parts.frame_of([PART])
    if frame is None:
        return []
    copy = parts.copy_gb_per_s(PART)
    groups = frame.groupby(["model", "batch_size"], sort=False)
    return [layer(rows, copy) for _, rows in groups]


def layer(rows: Any, copy_gb_per_s: float | None) -> dict[str, Any]:
    """Return one layer at one batch: the fastest implementation, its bandwidth, and all latencies."""
    ok = rows[rows["outcome"] == "ok"]
    best = None if ok.empty else ok.loc[ok["latency_ms"].idxmin()]
    achieved = None if best is None else plain(best["achieved_gb_per_s"])
    of_copy = None if achieved is None or copy_gb_per_s is None else achieved / copy_gb_per_s
    return {
        **{key: plain(rows[key].iloc[0]) for key in ("model", "batch_size", "kv_len")},
        "cache_bytes_of_all_layers_like_it": plain(rows["kv_cache_bytes_model_all_layers"].iloc[0]),
        "best": None if best is None else best["impl"],
        "achieved_gb_per_s": achieved,
        "share_of_copy_bandwidth": of_copy,
        "latency_ms": {row["impl"]: plain(row["latency_ms"]) for _, row in rows.iterrows()},
        "not_ok": {row["impl"]: row["reason"] for _, row in rows[rows["outcome"] != "ok"].iterrows()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=positive_seconds, default=330.0, help="of this call; default: 330")
    parser.add_argument("--json", type=Path, default=Path("models.json"), metavar="FILE")
    parser.add_argument("--runs", type=Path, default=Path("results/runs"), metavar="FOLDER")
    parser.add_argument("--rehearse", action="store_true", help="tiny problems, on whatever device there is")
    arguments = parser.parse_args()
    rehearses = is_rehearsal(arguments.rehearse)
    parts = Parts(arguments.runs / REHEARSAL if rehearses else arguments.runs)
    parts.measure(PART, overrides(rehearses), arguments.seconds)
    report = {"rehearsal": rehearses, "layers": layers_of(parts), "left_out": LEFT_OUT}
    arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {arguments.json}")


if __name__ == "__main__":
    run_script(main)
