"""How far two live workers that run the same code disagree, and each from a worker that is alone.

    python tests/benchmarks/live_workers.py [--runs 12] [--impls sdpa,cpu_decode] [--build FOLDER] [--check]

Runs sweeps of one decode step in which each implementation is measured in two environments with the same
code (`measure=pairs`, cold and warm caches), and as often by itself. Prints, for each implementation and
state of the caches, the standard deviation of the log of the ratio of the two latencies, and the median
latency beside another worker over the median alone. `--build` measures another checkout of gqabench;
`--check` exits with 1 where a deviation exceeds 0.03 or a median moves by more than 3 %. Run it on a quiet
machine.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run as a script, from anywhere

from gqabench import results  # noqa: E402

IMPLS = "grouped_matmul,sdpa,cpu_decode,onnxruntime_gqa"
CASE = (
    "measure=pairs", "batch_size=1", "kv_len=4096", "num_q_heads=32", "num_kv_heads=8", "head_dim=128",
    "dtype=float32", "device=cpu", "report=false", "measure.caches=[cold,warm]",
)  # fmt: skip
PROGRAM = "import sys; from gqabench.harness.cli import main; sys.exit(main())"
COLUMNS = {"cold": "latency_ms", "warm": "warm_latency_ms"}
MOST_DEVIATION = 0.03
MOST_MOVED = 0.03


@dataclass(frozen=True)
class Agreement:
    """Latencies of one implementation, with caches in one state, from all runs."""

    log_ratios: list[float] = field(default_factory=list)
    """Of the second environment's latency over the first's, one of each run"""
    beside_ms: list[float] = field(default_factory=list)
    alone_ms: list[float] = field(default_factory=list)

    @property
    def deviation(self) -> float:
        """Standard deviation of the log ratios around their mean."""
        return statistics.stdev(self.log_ratios)

    @property
    def beside_over_alone(self) -> float:
        """The median latency beside another live worker, over that of a worker by itself."""
        return statistics.median(self.beside_ms) / statistics.median(self.alone_ms)

    def text(self) -> str:
        """Return what a person reads of it."""
        ratios = [math.exp(one) for one in self.log_ratios]
        return (
            f"sd of log ratio {self.deviation:.3f} (ratios {min(ratios):.2f} to {max(ratios):.2f}); "
            f"median beside over alone {self.beside_over_alone:.3f} "
            f"({statistics.median(self.alone_ms):.3f} ms alone)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--impls", default=IMPLS)
    parser.add_argument("--build", type=Path, default=ROOT)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    is_met = True
    for impl in arguments.impls.split(","):
        agreements = measure(impl, arguments.runs, arguments.build.resolve())
        for state, agreement in agreements.items():
            print(f"{impl}, {state}: {agreement.text()}", flush=True)
            is_met &= agreement.deviation <= MOST_DEVIATION
            is_met &= abs(agreement.beside_over_alone - 1) <= MOST_MOVED
    if arguments.check and not is_met:
        sys.exit(f"beyond {MOST_DEVIATION} or {MOST_MOVED:.0%}")


def measure(impl: str, num_runs: int, build: Path) -> dict[str, Agreement]:
    """Run sweeps of both kinds in turns, so that drift hits both alike; return what each state tells."""
    agreements = {state: Agreement() for state in COLUMNS}
    for seed in range(num_runs):
        beside = sweep([impl, f"new:{impl}"], seed, build)
        alone = sweep([impl], seed, build)
        for state, column in COLUMNS.items():
            agreement = agreements[state]
            agreement.beside_ms.extend(beside[column])
            agreement.alone_ms.extend(alone[column])
            agreement.log_ratios.append(math.log(beside[column]["new"] / beside[column]["current"]))
    return agreements


def sweep(impls: list[str], seed: int, build: Path) -> pd.DataFrame:
    """Return the records of one sweep, by environment."""
    with tempfile.TemporaryDirectory(prefix="gqabench-") as folder:
        keys = [*CASE, f"impls=[{','.join(impls)}]", f"seed={seed}", f"results_dir={folder}"]
        if len(impls) > 1:
            keys.append(f"environments.new.source={build}")
        command = [sys.executable, "-c", PROGRAM, "sweep", *keys]
        subprocess.run(command, cwd=build, check=True, capture_output=True)
        return results.load(Path(folder) / "latest").set_index("environment")


if __name__ == "__main__":
    main()
