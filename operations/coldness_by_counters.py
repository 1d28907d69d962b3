"""Whether a flush empties a GPU's L2, by the memory controller's own counters: needs `ncu` (Nsight Compute).

    python operations/coldness_by_counters.py --json coldness.json

For each implementation one decode call is profiled after the flush that timing uses, and one right after
another call without a flush, on K and V of half the L2. A cold call has to read all of K and V from DRAM
(`dram__bytes_read.sum`), a warm one next to nothing: the file says what share each read. The GPU's clocks
are left as they are.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IMPLS = ("sdpa_flash", "triton_decode", "grouped_matmul")
METRIC = "dram__bytes_read.sum"
LEAST_COLD_SHARE = 0.95
"""Of K and V; prefetching may bring a few lines before the counters are read."""
MOST_WARM_SHARE = 0.25
UNITS = {"byte": 1, "Kbyte": 10**3, "Mbyte": 10**6, "Gbyte": 10**9}

CALL = """
import sys
import torch
from gqabench.attention_impls import AttentionProblem, get_impl
from gqabench.attention_impls.inputs import make_inputs
from gqabench.harness.worker.timing.cache_flush import CacheFlush, last_level_cache_bytes

impl, state = sys.argv[1:]
bytes_per_token = 2 * 8 * 128 * 2
kv_len = last_level_cache_bytes("cuda") // 2 // bytes_per_token
problem = AttentionProblem(1, 1, kv_len, 32, 8, 128, "bfloat16", "cuda")
with torch.inference_mode():
    call, flush = get_impl(impl).prepare(problem, make_inputs(problem, 0)), CacheFlush("cuda")
    for _ in range(3):
        call()
    if state == "cold":
        flush()
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStart()
    call()
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStop()
print("kv_bytes", kv_len * bytes_per_token, file=sys.stderr)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("coldness.json"), metavar="FILE")
    parser.add_argument("--ncu", default="ncu", help="the profiler's program; default: ncu")
    arguments = parser.parse_args()
    rows = {
        impl: {state: share_read(arguments.ncu, impl, state) for state in ("cold", "warm")} for impl in IMPLS
    }
    sound = {
        impl: shares["cold"] >= LEAST_COLD_SHARE and shares["warm"] <= MOST_WARM_SHARE
        for impl, shares in rows.items()
    }
    report = {"share_of_kv_read_from_dram": rows, "flush_is_sound": sound}
    arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    sys.exit(not all(sound.values()))


def share_read(ncu: str, impl: str, state: str) -> float:
    """Bytes that one call read from DRAM over the bytes of K and V."""
    profiler = [
        ncu, "--csv", "--metrics", METRIC, "--clock-control", "none", "--cache-control", "none",
        "--profile-from-start", "off",
    ]  # fmt: skip
    command = [*profiler, sys.executable, "-c", CALL, impl, state]
    try:
        finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SystemExit(f"{ncu}: {error.strerror}; it comes with Nsight Compute") from error
    if finished.returncode != 0:
        raise SystemExit(
            f"{ncu} failed on {impl}, {state}:\n{finished.stdout[-2000:]}{finished.stderr[-2000:]}"
        )
    return bytes_read(finished.stdout) / kv_bytes(finished.stderr)


def bytes_read(output: str) -> float:
    """Return the metric's sum over the kernels of a call, from what `ncu --csv` prints among other lines."""
    lines = [line for line in output.splitlines() if line.startswith('"')]
    rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO("\n".join(lines))))
    values = [row for row in rows if row["Metric Name"] == METRIC]
    if not values:
        raise SystemExit(f"ncu told no {METRIC}:\n{output[-2000:]}")
    return sum(float(row["Metric Value"].replace(",", "")) * UNITS[row["Metric Unit"]] for row in values)


def kv_bytes(errors: str) -> int:
    """Return what the profiled process says of K and V."""
    (line,) = [line for line in errors.splitlines() if line.startswith("kv_bytes ")]
    return int(line.split()[1])


if __name__ == "__main__":
    main()
