"""Proof that a cold call finds nothing of its inputs in the last-level cache."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import pytest
import torch

from gqabench.harness.worker.timing.cache_flush import last_level_cache_bytes
from gqabench.harness.worker.timing.clock import CpuClock

pytestmark = pytest.mark.alone

ROUNDS = 20
CALLS = 3
ATTEMPTS = 6
"""Neighbours on the same memory disturb an attempt; a cache that is not flushed fails all of them."""
MOST_DEVIATION = 0.15

SMALL, FITTING, LARGE, HUGE = 0.1, 0.35, 5.0, 10.0
"""Working sets in last-level caches."""
MOST_CACHE_BYTES = 48 * 2**20
"""Of a cache that is taken for the unit. A virtual machine is told of a whole server's, most of which its
neighbours have; to read ten of those takes minutes."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for one another would measure the neighbours."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def nothing() -> None:
    """Before a warm call."""


def read_times_ms(flush: Callable[[], None] | None = None) -> dict[tuple[float, str], float]:
    """Lower quartiles of the time to read each working set, cold and warm, measured in turns."""
    clock, unit_bytes = CpuClock("cpu"), min(last_level_cache_bytes("cpu"), MOST_CACHE_BYTES)
    flush = flush or clock.flush
    sets = {size: torch.randn(int(size * unit_bytes) // 4) for size in (SMALL, FITTING, LARGE, HUGE)}
    samples: dict[tuple[float, str], list[float]] = {}
    for _ in range(ROUNDS):
        for size, values in sets.items():
            for state, before_each in (("cold", flush), ("warm", nothing)):
                if state == "warm":
                    values.sum()
                timed = clock.time_calls(values.sum, CALLS, before_each)
                samples.setdefault((size, state), []).extend(timed)
    return {key: statistics.quantiles(times, n=4)[0] for key, times in samples.items()}


def ms_per_cache(times: dict[tuple[float, str], float], sizes: tuple[float, float], state: str) -> float:
    """What one more last-level cache of bytes takes: what a call costs by itself falls out."""
    low, high = sizes
    return (times[high, state] - times[low, state]) / (high - low)


def fitting_over_huge(times: dict[tuple[float, str], float]) -> float:
    """Time per byte of the cold sets: one that fits the cache over one of ten caches."""
    return ms_per_cache(times, (SMALL, FITTING), "cold") / ms_per_cache(times, (LARGE, HUGE), "cold")


@pytest.fixture(scope="module")
def attempts(one_thread: None) -> list[dict[tuple[float, str], float]]:
    """Times to read, up to the first attempt whose cold sets read as they should, or to the last."""
    attempts = []
    while len(attempts) < ATTEMPTS:
        attempts.append(read_times_ms())
        if abs(fitting_over_huge(attempts[-1]) - 1) <= MOST_DEVIATION:
            break
    return attempts


def test_a_cold_set_that_fits_the_cache_reads_like_one_of_ten_caches(
    attempts: list[dict[tuple[float, str], float]],
) -> None:
    seen = [fitting_over_huge(times) for times in attempts]
    message = f"time per byte, cold and fitting over ten times the cache: {seen}"
    assert seen[-1] == pytest.approx(1, abs=MOST_DEVIATION), message


def test_without_a_flush_it_reads_faster() -> None:
    assert fitting_over_huge(read_times_ms(flush=nothing)) < 0.7


def test_a_warm_set_that_fits_the_cache_reads_faster_than_a_cold_one(
    attempts: list[dict[tuple[float, str], float]],
) -> None:
    times = attempts[-1]
    assert times[SMALL, "warm"] < 0.8 * times[SMALL, "cold"]
    if last_level_cache_bytes("cpu") > MOST_CACHE_BYTES:
        return  # the huge set may stay in a part of such a cache
    # A set of ten caches evicts itself: nothing is left to be warm.
    assert times[HUGE, "warm"] == pytest.approx(times[HUGE, "cold"], rel=0.25)
