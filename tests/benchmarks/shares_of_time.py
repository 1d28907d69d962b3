"""What each arm gets of a case's time: eight arms, of which three are slow. For a quiet machine.

    python tests/benchmarks/shares_of_time.py [--runs 1] [--build FOLDER] [--study NAME]

Runs a decode step (batch 1, 4096 keys, 32/8 heads of 128, float32) of five implementations and of three that
take 0.3, 1.2 and 2.5 s, with `measure=standard`. Prints for each arm its latency, its samples and half
its interval, then the wall time, the median half-interval and how many rows are flagged `unstable`. `--build`
runs another checkout, to set the two side by side; `--study` runs a study instead.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import pandas as pd
from command_line import ROOT, half_intervals, run_sweep

FAST = ("grouped_matmul", "sdpa", "folded_sdpa", "cpu_decode", "onnxruntime_gqa")
SLOW_S = {"Slow": 0.3, "Slower": 1.2, "Slowest": 2.5}
MODULE = """
import time
from gqabench.attention_impls import PreparedAttention, get_impl

class Slow:
    name, seconds = "slow", {Slow}

    def unsupported_reasons(self, problem):
        return []

    def prepare(self, problem, inputs):
        inner = get_impl("grouped_matmul").prepare(problem, inputs)

        def run():
            until = time.perf_counter() + self.seconds
            output = inner.run()
            while time.perf_counter() < until:
                pass
            return output

        return PreparedAttention(run, inner.kv_cache_bytes)

class Slower(Slow):
    name, seconds = "slower", {Slower}

class Slowest(Slow):
    name, seconds = "slowest", {Slowest}
"""
CASE = (
    "batch_size=1", "kv_len=4096", "num_q_heads=32", "num_kv_heads=8", "head_dim=128", "dtype=float32",
    "device=cpu", "measure=standard", "measure.energy=false", "measure.roofs=false",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--build", type=Path, default=ROOT)
    parser.add_argument("--study")
    arguments = parser.parse_args()
    for seed in range(arguments.runs):
        rows, seconds = sweep(arguments.build.resolve(), arguments.study, seed)
        if arguments.study is None:
            print_arms(rows)
        half = half_intervals(rows)
        num_samples = rows.samples_ms.map(len)[rows.latency_ms < 20]
        num_unstable = sum("unstable" in flags for flags in rows["flags"])
        print(
            f"{seconds:.0f} s; median half-interval {statistics.median(half):.1%}; "
            f"samples of arms under 20 ms: at least {num_samples.min()}, median {num_samples.median():.0f}; "
            f"unstable: {num_unstable} of {len(rows)} rows",
            flush=True,
        )


def print_arms(rows: pd.DataFrame) -> None:
    """Print what each arm got, the fastest first."""
    shown = rows.assign(half=half_intervals(rows)).sort_values("latency_ms")
    for row in shown.itertuples():
        print(
            f"  {row.impl.rpartition(':')[2]}: {row.latency_ms:.3f} ms +-{row.half:.1%}, "
            f"{len(row.samples_ms)} samples {', '.join(row.flags)}"
        )


def sweep(build: Path, study: str | None, seed: int) -> tuple[pd.DataFrame, float]:
    """Run one sweep of a checkout; return its rows with a latency, and the seconds that it took."""
    with tempfile.TemporaryDirectory(prefix="gqabench-") as folder:
        (Path(folder) / "slow.py").write_text(MODULE.format(**SLOW_S))
        impls = [*FAST, *(f"{folder}/slow.py:{name}" for name in SLOW_S)]
        keys = [f"study={study}"] if study else [*CASE, f"impls=[{','.join(impls)}]"]
        rows, seconds = run_sweep([*keys, f"seed={seed}"], build)
    return rows[rows.outcome == "ok"], seconds


if __name__ == "__main__":
    main()
