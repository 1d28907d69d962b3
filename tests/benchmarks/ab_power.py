"""What `gqabench ab` finds of implementations that were made slower, and what it takes. For a quiet machine.

    python tests/benchmarks/ab_power.py [--tries 10] [--changes 0.1,0.3] [--one-of-48] [--build FOLDER]

Compares this checkout with copies of it in which `grouped_matmul` takes so much longer (it spins after each
call for a share of what the call took), at decode, batch 1, 4096 keys, 32/8 heads of 128, float32. Prints how
often the copy was found slower, in how many pairs, and in what time. `--one-of-48` slows one cell of
`study=smoke` by 30 % instead, and prints which cells were named; with `--changes 0` nothing is slower and
whole comparisons are timed. `--build` runs the `ab` of another checkout, on copies of that one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from command_line import ROOT, run_command

PACKAGES = ("gqabench", "attention_impls", "conf", "harness", "reports", "results")
ONE_CELL = (
    "batch_size=1", "kv_len=4096", "num_q_heads=32", "num_kv_heads=8", "head_dim=128", "dtype=float32",
    "device=cpu", "impls=[grouped_matmul]",
)  # fmt: skip
SLOWER = """

import time

_prepare = GroupedMatmul.prepare


def _slower(self, problem, inputs):
    prepared = _prepare(self, problem, inputs)
    if {only_one} and (problem.num_kv_heads, problem.kv_len) != (2, 256):
        return prepared

    def run():
        began_ns = time.perf_counter_ns()
        output = prepared.run()
        end_ns = began_ns + (time.perf_counter_ns() - began_ns) * (1 + {change})
        while time.perf_counter_ns() < end_ns:
            pass
        return output

    return PreparedAttention(run, prepared.kv_cache_bytes)


GroupedMatmul.prepare = _slower
"""


@dataclass(frozen=True)
class Found:
    """One comparison."""

    answers: dict[str, str]
    """Of latencies, by cell"""
    num_pairs: int
    seconds: float
    last_line: str

    @property
    def named(self) -> list[str]:
        """The cells that were called slower."""
        return [cell for cell, answer in self.answers.items() if answer == "regression"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=10)
    parser.add_argument("--changes", default="0.1,0.3")
    parser.add_argument("--one-of-48", action="store_true")
    parser.add_argument("--build", type=Path, default=ROOT)
    arguments = parser.parse_args()
    build, only_one = arguments.build.resolve(), arguments.one_of_48
    with tempfile.TemporaryDirectory(prefix="gqabench-") as folder:
        for change in map(float, arguments.changes.split(",")):
            copy = slower_copy(build, Path(folder) / f"slower-{change:g}", change, only_one)
            keys = ("study=smoke",) if only_one else ONE_CELL
            print_found(change, [compare(build, copy, seed, keys) for seed in range(arguments.tries)])


def print_found(change: float, tries: Sequence[Found]) -> None:
    """Print each comparison, then what came of all."""
    for one in tries:
        print(f"  {one.num_pairs} pairs, {one.seconds:.0f} s: {one.last_line}")
    num_found = sum(bool(one.named) for one in tries)
    pairs = sorted(one.num_pairs for one in tries)
    print(
        f"{change:+.0%}: found in {num_found} of {len(tries)}, in {pairs[len(pairs) // 2]} pairs "
        f"(at most {pairs[-1]}), {sum(one.seconds for one in tries) / len(tries):.0f} s each; "
        f"named: {sorted({cell for one in tries for cell in one.named})}",
        flush=True,
    )


def slower_copy(build: Path, folder: Path, change: float, only_one: bool) -> Path:
    """Copy a checkout, and make its `grouped_matmul` slower: everywhere, or in one case of `study=smoke`."""
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "runs", "baselines")
        shutil.copytree(build / package, folder / package, ignore=ignored)
    with (folder / "attention_impls/plain/grouped_matmul.py").open("a") as file:
        file.write(SLOWER.format(change=change, only_one=only_one))
    return folder


def compare(build: Path, copy: Path, seed: int, keys: Sequence[str]) -> Found:
    """Run `gqabench ab` of a checkout against its copy."""
    with tempfile.TemporaryDirectory(prefix="gqabench-") as folder:
        verdicts = Path(folder) / "verdicts.json"
        options = ["--policy", "default", "--seed", str(seed), "--json", str(verdicts)]
        finished, seconds = run_command("ab", str(build), str(copy), *keys, *options, build=build)
        if not verdicts.exists():
            sys.exit(finished.stderr)
        found = json.loads(verdicts.read_text())["verdicts"]
    answers = {
        f"{one['cell']['impl']}, {one['cell']['problem']}": one["answer"]
        for one in found
        if one["metric"] == "latency_ms"
    }
    num_pairs = finished.stderr.count("cells measured")
    return Found(answers, num_pairs, seconds, finished.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
