"""What `gqabench compare` costs on large runs. Run it on a quiet machine: `make bench-harness` runs it too.

It makes up two runs of 10,000 records each, compares them in a fresh process, and prints wall time and peak
resident memory beside their targets. It asserts nothing, as machines differ.
"""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path

from command_line import run_command  # isort: skip  # finds the project

from tests.results.made_up_runs import made_up_rows, made_up_run

NUM_RECORDS = 10_000
NUM_SAMPLES = 100
TARGET_S = 10.0
TARGET_GIB = 1.0


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="gqabench-") as name:
        runs = [
            made_up_run(
                Path(name),
                side,
                made_up_rows(side, NUM_RECORDS, seed=seed, num_samples=NUM_SAMPLES, changes=changes),
            )
            for seed, (side, changes) in enumerate((("base", {}), ("new", {7: {"slower": 2.0}})))
        ]
        finished, seconds = run_command("compare", *map(str, runs))
        peak_gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 2**30
    print(finished.stdout.splitlines()[-1] if finished.stdout else finished.stderr)
    print(f"compare two runs of {NUM_RECORDS:,} records: {seconds:.1f} s   target: under {TARGET_S:.0f} s")
    print(f"peak resident memory: {peak_gib:.2f} GiB   target: under {TARGET_GIB:.0f} GiB")


if __name__ == "__main__":
    main()
