"""Flags: doubts about a measurement, by name. Pure functions of samples and conditions decide them.

The levels and sizes below were chosen by simulation, which `tests/results/test_flags.py` repeats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gqabench.results.statistics.samples import MedianInterval, median, median_interval

_Array: TypeAlias = npt.NDArray[Any]

FLAG_UNSTABLE = "unstable"
FLAG_BIMODAL = "bimodal"
FLAG_DRIFTING = "drifting"
FLAG_THROTTLED = "throttled"
FLAG_WARM_SUSPECT = "warm_suspect"
FLAG_CLOCK_CHANGED = "clock_changed"
FLAG_BACKGROUND_LOAD = "background_load"
FLAG_SHARED_CORES = "shared_cores"
FLAG_LAUNCH_EXPOSED = "launch_exposed"
FLAG_CACHE_UNSEEN = "cache_unseen"
FLAG_CACHE_UNDERSTATED = "cache_understated"
FLAG_WORKSPACE_UNSEEN = "workspace_unseen"
FLAG_MEASURED_ALONE = "measured_alone"

FLAG_MEANINGS: dict[str, str] = {
    FLAG_UNSTABLE: "the interval is too wide for what it is compared with: it hides a difference from "
    "another arm, or exceeds `measure.unstable_interval`",
    FLAG_BIMODAL: "the samples fall into two separate groups: the median describes one of them, or neither",
    FLAG_DRIFTING: "calls became slower or faster while they were timed",
    FLAG_THROTTLED: "the device lowered its clocks, to limit power or heat",
    FLAG_WARM_SUSPECT: "more bytes a second than this machine's memory can deliver: some came from a cache",
    FLAG_CLOCK_CHANGED: "the device's clock moved while calls were timed",
    FLAG_BACKGROUND_LOAD: "other processes used the CPU or the GPU while calls were timed",
    FLAG_SHARED_CORES: "what this run itself had started was busy meanwhile: `shared_cores_with` names it",
    FLAG_LAUNCH_EXPOSED: "the GPU waited for the host within timed calls: the latency includes launches",
    FLAG_CACHE_UNSEEN: "the cache bytes that the implementation states were not seen to be allocated",
    FLAG_CACHE_UNDERSTATED: "before it was timed it kept more memory than its stated cache explains",
    FLAG_WORKSPACE_UNSEEN: "a call took memory that PyTorch's allocator knows nothing of",
    FLAG_MEASURED_ALONE: "measured after the others, not interleaved: its memory did not fit beside theirs",
}
"""Every flag and what it says of a measurement, in the order in which flags are listed."""

HARMLESS_CLOCK_REASONS = frozenset({"gpu_idle", "applications_clocks_setting"})
"""Clock event reasons of NVML that are no doubt: there was nothing to do, or a user has set the clocks."""

_MEANINGFUL_CHANGE = 0.02
"""Share of the median: groups and trends of less hide in the interval of a standard measurement, +-1 %."""

_FEWEST_FOR_GROUPS = 20
_LEAST_SHARE_OF_GROUP = 0.1
"""What is rarer are outliers. Groups of 15 % are to be found, and chance makes some of those smaller."""
_MOST_IN_VALLEY = 0.5
"""Share of the poorer outer window. Large samples show shallow valleys too, which separate nothing."""
_GROUPS_LEVEL = 0.004
_COARSEST_CLOCK = 0.1
"""Share of the median: a larger step between values is no step of a clock."""

_MOST_BATCHES = 12
_FEWEST_BATCHES = 6
_FEWEST_PER_BATCH = 5
_DRIFT_LEVEL = 0.005

_CLOCK_RANGE = 0.03
"""Share of the median clock. NVIDIA's clocks move in steps of 15 MHz, under 1 %: some steps are no change."""

_MOST_EXPOSED = 0.05
"""Of the calls: rarer ones do not move the median."""

_LIBRARIES_GROW_BYTES = 32 * 2**20
"""Pools of threads and buffers that libraries make when they are first used."""

_FEWEST_BUSY_CORES = 0.1
_BUSY_SHARE_OF_CORES = 0.01


def is_unstable(
    samples: Sequence[float],
    neighbours: Iterable[Sequence[float]],
    *,
    target_interval: float,
    unstable_interval: float,
) -> bool:
    """Return whether a median is too much in doubt for what it is compared with.

    It is where half its 95 % interval exceeds `unstable_interval` of it, or where it has none: too few
    samples. And it is where half its interval misses `target_interval` and it cannot be told from a neighbour
    that it should be told from: the medians of the two lie apart by more than twice `target_interval`, as two
    that meet it could show, and their intervals overlap. `neighbours` are the samples of the case's other
    arms, with caches in the same state.
    """
    interval, middle = median_interval(samples), median(samples)
    if interval is None or interval.relative_half_width(middle) > unstable_interval:
        return True
    if interval.relative_half_width(middle) <= target_interval:
        return False
    return any(_is_confused(interval, middle, other, 2 * target_interval) for other in neighbours)


def _is_confused(
    interval: MedianInterval, middle: float, other: Sequence[float], least_distance: float
) -> bool:
    """Return whether medians that lie apart by more than a share of them have intervals that overlap."""
    others, others_middle = median_interval(other), median(other)
    if others is None or abs(others_middle - middle) <= least_distance * min(middle, others_middle):
        return False
    return interval.low <= others.high and others.low <= interval.high


def is_bimodal(samples: Sequence[float]) -> bool:
    """Return whether the samples fall into two groups. False below 20 samples, which cannot tell.

    Every split of the sorted samples into a lower and an upper part, each of at least 10 %, is a candidate.
    Three windows, as wide as a third of the distance between the parts' medians, lie around the two medians
    and half-way between them. If the density has one mode, the middle window holds at least as much of it as
    the poorer of the outer two. So the counts of these two are compared by a sign test for a valley, which
    skewness and a few outliers do not make. It is a relative of the excess mass (Mueller and Sawitzki, JASA
    86 (1991) 738-746) and of the dip (Hartigan and Hartigan, Annals of Statistics 13 (1985) 70-84). Its level
    of 0.4 % is that of one split; over all splits, in simulations, less than 1 % of unimodal sets of samples
    are flagged, flat ones included. Besides, 10 % of the samples have to lie on either side of the valley,
    and the groups' medians have to differ by more than 2 % of the whole median.

    Values that a clock's resolution made equal count as spread over one step of it, the smallest there is
    between values. Two values alone, up to 10 % apart, are therefore not two groups.
    """
    if len(samples) < _FEWEST_FOR_GROUPS:
        return False
    ordered = _without_clock_steps(np.asarray(samples, dtype=float) / np.median(samples))
    num_samples = len(ordered)
    fewest = math.ceil(_LEAST_SHARE_OF_GROUP * num_samples)
    num_low = np.arange(fewest, num_samples - fewest + 1)
    low, high = ordered[(num_low - 1) // 2], ordered[(num_low + num_samples) // 2]
    width = (high - low) / 3
    in_low = _count_between(ordered, low - width / 2, low + width / 2)
    in_valley = _count_between(ordered, low + width, high - width)
    in_high = _count_between(ordered, high - width / 2, high + width / 2)
    in_smaller = np.minimum(in_low, in_high)
    below_valley = np.searchsorted(ordered, (low + high) / 2)
    is_candidate = (
        (high - low > _MEANINGFUL_CHANGE)
        & (in_valley <= _MOST_IN_VALLEY * in_smaller)
        & (np.minimum(below_valley, num_samples - below_valley) >= fewest)
    )
    if not is_candidate.any():
        return False
    from scipy.special import bdtr  # here, so that reading records does not wait for scipy

    valley, smaller = in_valley[is_candidate], in_smaller[is_candidate]
    return bool(np.min(bdtr(valley, valley + smaller, 0.5)) < _GROUPS_LEVEL)


def is_drifting(samples: Sequence[float], slice_sizes: Sequence[int] | None = None) -> bool:
    """Return whether calls became slower or faster over time. False below 30 samples, or 6 slices.

    Neighbouring samples resemble each other, which makes trend tests of single samples find trends in noise.
    Medians of long batches hardly do, and a dozen of them are enough (Schmeiser, "Batch size effects in the
    analysis of simulation output", Operations Research 30 (1982) 556-568). So the samples, in order, are cut
    into up to 12 batches of about 5 or more, never inside one of the slices in which they were measured;
    `slice_sizes` are their numbers of samples, 1 each where None. They drift where the batches' medians
    correlate with their order (Pearson, at 0.5 %) and where those of the last third differ from those of the
    first by more than 2 % of the median, on average. A step half-way is found as a trend is; one that touches
    only the first or last fifth is left to `is_bimodal`.
    """
    sizes = [1] * len(samples) if slice_sizes is None else slice_sizes
    num_batches = min(_MOST_BATCHES, len(samples) // _FEWEST_PER_BATCH, len(sizes))
    if num_batches < _FEWEST_BATCHES:
        return False
    medians = _batch_medians(samples, sizes, num_batches)
    third = num_batches // 3
    change = abs(medians[-third:].mean() - medians[:third].mean())
    if change <= _MEANINGFUL_CHANGE * np.median(samples):
        return False
    return _correlation_p_value(np.arange(num_batches), medians) < _DRIFT_LEVEL


def _batch_medians(samples: Sequence[float], slice_sizes: Sequence[int], num_batches: int) -> _Array:
    """Return medians of batches of successive slices, of which the first have one more where they must."""
    ends = [batch.sum() for batch in np.array_split(np.asarray(slice_sizes), num_batches)]
    batches = np.split(np.asarray(samples, dtype=float), np.cumsum(ends)[:-1])
    return np.array([np.median(batch) for batch in batches])


def _correlation_p_value(x: _Array, y: _Array) -> float:
    """Return the two-sided p-value of Pearson's correlation, as `scipy.stats.pearsonr` does.

    Under no correlation `(1 - |r|) / 2` has the beta distribution of `n / 2 - 1` twice. `scipy.stats` itself
    takes most of a second to import.
    """
    from scipy.special import betainc

    from_mean_x, from_mean_y = x - x.mean(), y - y.mean()
    r = from_mean_x @ from_mean_y / math.sqrt((from_mean_x @ from_mean_x) * (from_mean_y @ from_mean_y))
    shape = len(x) / 2 - 1
    return float(2 * betainc(shape, shape, max(1 - abs(r), 0) / 2))


def sample_flags(samples: Sequence[float], slice_sizes: Sequence[int] | None = None) -> list[str]:
    """Return the flags that samples in order raise by themselves, in the order of `FLAG_MEANINGS`."""
    raised = {FLAG_BIMODAL: is_bimodal(samples), FLAG_DRIFTING: is_drifting(samples, slice_sizes)}
    return [flag for flag in FLAG_MEANINGS if raised.get(flag)]


def condition_flags(
    *,
    throttle_reasons: Sequence[str] | None,
    clock_mhz: float | None,
    clock_range_mhz: float | None,
    background_load: float | None,
    num_cores: int,
    gpu_other_processes: bool | None = None,
    exposed_share: float = 0.0,
    own_load: float = 0.0,
) -> list[str]:
    """Return the flags of what was seen of the machine during timing, in the order of `FLAG_MEANINGS`.

    What is None was not seen and raises none. `clock_mhz` is the median clock, `clock_range_mhz` the highest
    less the lowest. `background_load` is how many of the `num_cores` other processes kept busy on average. It
    is too much above 0.1 cores, or 1 % of the cores where that is more: a call on all cores waits for the
    slowest of them, so that cores delay it and not their share; but what a system does for itself grows with
    their number. `gpu_other_processes`: whether others had a context on the GPU.
    `exposed_share`: of the timed calls, those during which the GPU waited for the host. `own_load`: cores
    that were kept busy by what the run itself had started, and that is too much by the same measure.
    """
    most_busy = max(_FEWEST_BUSY_CORES, _BUSY_SHARE_OF_CORES * num_cores)
    raised = {
        FLAG_THROTTLED: not HARMLESS_CLOCK_REASONS.issuperset(throttle_reasons or ()),
        FLAG_CLOCK_CHANGED: clock_mhz is not None
        and clock_range_mhz is not None
        and clock_range_mhz > _CLOCK_RANGE * clock_mhz,
        FLAG_LAUNCH_EXPOSED: exposed_share > _MOST_EXPOSED,
        FLAG_BACKGROUND_LOAD: bool(gpu_other_processes)
        or (background_load is not None and background_load > most_busy),
        FLAG_SHARED_CORES: own_load > most_busy,
    }
    return [flag for flag in FLAG_MEANINGS if raised.get(flag)]


def cache_flags(
    *,
    kv_cache_bytes: int,
    prepared_bytes: int,
    given_bytes: int,
    other_bytes: int | None,
    unseen_bytes: int | None = None,
) -> list[str]:
    """Return the flags of a cache whose allocation was not observed, or that is larger than stated.

    An implementation that reads K and V in place holds the `given_bytes`. One with a layout of its own
    allocates what it holds while it is prepared, `prepared_bytes` in all: what of these is neither the cache
    nor within `other_bytes` may be a larger cache, expanded beforehand. None for `other_bytes` asks nothing.
    So may `unseen_bytes` that it keeps outside PyTorch, where they are more than libraries grow by.
    """
    is_own = 0 < kv_cache_bytes <= prepared_bytes
    if not is_own and kv_cache_bytes != given_bytes:
        return [FLAG_CACHE_UNSEEN]
    unstated_bytes = prepared_bytes - (kv_cache_bytes if is_own else 0)
    is_understated = other_bytes is not None and (
        unstated_bytes > other_bytes or (unseen_bytes or 0) > other_bytes + _LIBRARIES_GROW_BYTES
    )
    return [FLAG_CACHE_UNDERSTATED] if is_understated else []


def _without_clock_steps(values: _Array) -> _Array:
    """Return sorted values of about 1, with those that a clock made equal spread evenly over its step.

    The step is the smallest difference between values; under a millionth they are equal.
    """
    ordered = np.sort(np.round(values, 6))
    distinct, counts = np.unique(ordered, return_counts=True)
    step = np.diff(distinct).min(initial=np.inf)
    if step > _COARSEST_CLOCK:
        return ordered
    place = np.arange(len(ordered)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.asarray(ordered + step * ((place + 0.5) / np.repeat(counts, counts) - 0.5))


def _count_between(ordered: _Array, low: _Array, high: _Array) -> _Array:
    """Return how many of the ordered values lie in each closed range."""
    return np.asarray(
        np.searchsorted(ordered, high, side="right") - np.searchsorted(ordered, low, side="left")
    )
