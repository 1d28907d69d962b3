"""How far two live workers that run the same code disagree, and each from a worker that is alone.

    python tests/benchmarks/live_workers.py [--runs 12] [--impls sdpa,cpu_decode] [--caches cold]
        [--build FOLDER] [--check] [--scatter GIB] [key=value ...]

Runs sweeps of one decode step in which each implementation is measured in two environments with the same
code (`measure=pairs`), and as often by itself. Prints the standard deviation of the log of the ratio of the
two latencies, beside the one that follows from the samples' own intervals, and the median latency beside
another worker over the median alone. `--build` measures another checkout of gqabench; `--check` exits with 1
where a deviation exceeds 0.03 or a median moves by more than 3 %. `--scatter` leaves half of so much memory
free in pieces of a few pages each, as long use of a machine does. Keys are added to each sweep. Run it on a
quiet machine.
"""

from __future__ import annotations

import argparse
import math
import mmap
import random
import statistics
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from command_line import ROOT, half_intervals, run_sweep

IMPLS = "grouped_matmul,sdpa,cpu_decode,onnxruntime_gqa"
CASE = (
    "measure=pairs", "batch_size=1", "kv_len=4096", "num_q_heads=32", "num_kv_heads=8", "head_dim=128",
    "dtype=float32", "device=cpu",
)  # fmt: skip
MOST_DEVIATION = 0.03
MOST_MOVED = 0.03


@dataclass(frozen=True)
class Agreement:
    """Latencies of one implementation, from all runs."""

    log_ratios: list[float] = field(default_factory=list)
    """Of the second environment's latency over the first's, one of each run"""
    half_intervals: list[float] = field(default_factory=list)
    """Of latencies beside another worker, as shares of them"""
    beside_ms: list[float] = field(default_factory=list)
    alone_ms: list[float] = field(default_factory=list)

    @property
    def deviation(self) -> float:
        """Standard deviation of the log ratios around their mean."""
        return statistics.stdev(self.log_ratios)

    @property
    def expected_deviation(self) -> float:
        """What the deviation would be if nothing but the scatter of a series' samples made it."""
        return math.sqrt(2) * statistics.median(self.half_intervals) / 1.96

    @property
    def beside_over_alone(self) -> float:
        """The median latency beside another live worker, over that of a worker by itself."""
        return statistics.median(self.beside_ms) / statistics.median(self.alone_ms)

    def text(self) -> str:
        """Return what a person reads of it."""
        ratios = [math.exp(one) for one in self.log_ratios]
        return (
            f"sd of log ratio {self.deviation:.3f} (ratios {min(ratios):.2f} to {max(ratios):.2f}, "
            f"mean {math.exp(statistics.mean(self.log_ratios)):.3f}; by their samples "
            f"{self.expected_deviation:.3f}); "
            f"median beside over alone {self.beside_over_alone:.3f} "
            f"({statistics.median(self.alone_ms):.3f} ms alone)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--impls", default=IMPLS)
    parser.add_argument("--caches", default="cold", choices=["cold", "warm"])
    parser.add_argument("--build", type=Path, default=ROOT)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--scatter", type=float, metavar="GIB")
    parser.add_argument("keys", nargs="*")
    arguments = parser.parse_args()
    keys = (*CASE, f"measure.caches=[{arguments.caches}]", *arguments.keys)
    is_met = True
    with scattered(arguments.scatter) if arguments.scatter else nullcontext():
        for impl in arguments.impls.split(","):
            agreement = measure(impl, arguments.runs, arguments.build.resolve(), keys)
            print(f"{impl}, {arguments.caches}: {agreement.text()}", flush=True)
            is_met &= agreement.deviation <= MOST_DEVIATION
            is_met &= abs(agreement.beside_over_alone - 1) <= MOST_MOVED
    if arguments.check and not is_met:
        sys.exit(f"beyond {MOST_DEVIATION} or {MOST_MOVED:.0%}")


def measure(impl: str, num_runs: int, build: Path, keys: Sequence[str]) -> Agreement:
    """Run sweeps of both kinds in turns, so that drift hits both alike."""
    agreement = Agreement()
    for seed in range(num_runs):
        beside = sweep([impl, f"new:{impl}"], build, [*keys, f"seed={seed}"])
        alone = sweep([impl], build, [*keys, f"seed={seed}"])
        agreement.beside_ms.extend(beside.latency_ms)
        agreement.half_intervals.extend(half_intervals(beside))
        agreement.alone_ms.extend(alone.latency_ms)
        agreement.log_ratios.append(math.log(beside.latency_ms["new"] / beside.latency_ms["current"]))
    return agreement


def scattered(gib: float) -> mmap.mmap:
    """Return memory of which half is free, in pieces of 4 to 32 KiB, until it is closed."""
    num_bytes, page = int(gib * 2**30), mmap.PAGESIZE
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for start in range(0, num_bytes, page):
        memory[start] = 1
    sizes, start = random.Random(0), 0
    while start < num_bytes:
        kept, freed = (page * sizes.choice([1, 1, 2, 2, 4, 8]) for _ in range(2))
        if start + kept + freed <= num_bytes:
            memory.madvise(mmap.MADV_DONTNEED, start + kept, freed)
        start += kept + freed
    return memory


def sweep(impls: list[str], build: Path, keys: Sequence[str]) -> pd.DataFrame:
    """Run one sweep; return its records, by environment."""
    given = [*keys, f"impls=[{','.join(impls)}]"]
    if len(impls) > 1:
        given.append(f"environments.new.source={build}")
    return run_sweep(given, build)[0].set_index("environment")


if __name__ == "__main__":
    main()
