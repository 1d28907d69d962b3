"""Whether a cold call finds anything of its inputs in this CPU's last-level cache.

    python tests/benchmarks/coldness.py [--rounds 20] [--check]

Reads sets of numbers, of a tenth of the cache to ten caches, after the flush that cold calls get and warm, in
turns. A set that fits the cache and was flushed takes as long for each byte as one of ten caches; a warm one
takes less. `--check` exits with 1 where the first of these does not hold within 15 % in any of six attempts:
neighbours on the same memory disturb one, and a cache that is not flushed fails all.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gqabench.harness.worker.timing.cache_flush import last_level_cache_bytes
from gqabench.harness.worker.timing.clock import CpuClock

CALLS = 3
ATTEMPTS = 6
MOST_DEVIATION = 0.15
SMALL, FITTING, LARGE, HUGE = 0.1, 0.35, 5.0, 10.0
"""Sets of numbers, in last-level caches."""
MOST_CACHE_BYTES = 48 * 2**20
"""Of a cache that is taken for the unit. A virtual machine is told of a whole server's, most of which its
neighbours have; to read ten of those takes minutes."""


@dataclass(frozen=True)
class ReadTimes:
    """Lower quartiles of the milliseconds to read each set, by its size and the state of the cache."""

    quartiles_ms: dict[tuple[float, str], float]

    def fitting_over_huge(self, state: str) -> float:
        """Return the time for each byte of what fits the cache, over that of ten flushed caches."""
        fitting = self._ms_per_cache((SMALL, FITTING), state)
        return fitting / self._ms_per_cache((LARGE, HUGE), "flushed")

    def _ms_per_cache(self, sizes: tuple[float, float], state: str) -> float:
        """What one more cache of bytes takes: what a call costs by itself falls out."""
        low, high = sizes
        return (self.quartiles_ms[high, state] - self.quartiles_ms[low, state]) / (high - low)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for one another would measure the neighbours
    for _ in range(ATTEMPTS if arguments.check else 1):
        times = read_times(arguments.rounds)
        flushed = times.fitting_over_huge("flushed")
        print(f"time for each byte, of a set that fits the cache over one of ten caches: {flushed:.2f}")
        print(f"  the same warm: {times.fitting_over_huge('warm'):.2f}", flush=True)
        if abs(flushed - 1) <= MOST_DEVIATION:
            return
    if arguments.check:
        sys.exit(f"a flushed set that fits the cache was never read within {MOST_DEVIATION:.0%} of 1")


def read_times(rounds: int) -> ReadTimes:
    """Time reading each set in each state, in turns."""
    clock, unit_bytes = CpuClock("cpu"), min(last_level_cache_bytes("cpu"), MOST_CACHE_BYTES)
    sets = {size: torch.randn(int(size * unit_bytes) // 4) for size in (SMALL, FITTING, LARGE, HUGE)}
    states: dict[str, Callable[[], None]] = {"flushed": clock.flush, "warm": lambda: None}
    samples: dict[tuple[float, str], list[float]] = {}
    for _ in range(rounds):
        for size, values in sets.items():
            for state, before_each in states.items():
                if state == "warm":
                    values.sum()
                timed = clock.time_calls(values.sum, CALLS, before_each)
                samples.setdefault((size, state), []).extend(timed)
    return ReadTimes({key: statistics.quantiles(times, n=4)[0] for key, times in samples.items()})


if __name__ == "__main__":
    main()
