"""The flags, and how often chance raises those of samples: simulations with fixed seeds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.signal import lfilter

from gqabench.results import flags
from gqabench.results.flags import (
    FLAG_MEANINGS,
    cache_flags,
    condition_flags,
    is_bimodal,
    is_drifting,
    is_unstable,
    sample_flags,
)

Array = npt.NDArray[Any]
Generator = np.random.Generator
Draw = Callable[[Generator, int], Array]

MOST_FALSE_ALARMS = 0.01


def rate_of(flag: Callable[[Array], bool], draw: Draw, num_samples: int, num_draws: int) -> float:
    """How often samples of a distribution raise a flag."""
    generator = np.random.default_rng(num_samples)
    return sum(flag(draw(generator, num_samples)) for _ in range(num_draws)) / num_draws


def test_every_flag_has_a_meaning_of_its_own() -> None:
    names = [
        value for name, value in vars(flags).items() if name.startswith("FLAG_") and isinstance(value, str)
    ]
    assert names == list(FLAG_MEANINGS)
    assert len(set(FLAG_MEANINGS.values())) == len(names)


def test_flags_do_not_wait_for_scipy() -> None:
    check = "import sys, gqabench.results.flags; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


# Unstable


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([1.0], True),  # no interval
        ([1.0, 1.0], True),
        ([1.0] * 5, True),
        ([1.0] * 6, False),
        ([1.0, 1.0, 1.0, 1.2, 1.2, 1.2], True),  # 1.0 to 1.2 around 1.1: 9 %
        ([1.0] * 8 + [100.0], False),
    ],
    ids=["one", "two", "odd", "ties", "even", "outlier"],
)
def test_unstable_alone_in_hand_worked_cases(samples: list[float], expected: bool) -> None:
    assert is_unstable(samples, [], target_interval=0.01, unstable_interval=0.05) == expected


def around(middle: float, half: float) -> list[float]:
    """Seven samples whose interval reaches about `half` of the median to either side."""
    return [middle * (1 + half * place) for place in (-1, -0.9, -0.1, 0, 0.1, 0.9, 1)]


@pytest.mark.parametrize(
    ("samples", "neighbours", "expected"),
    [
        (around(1.0, 0.03), [], False),
        (around(1.0, 0.03), [around(2.0, 0.03)], False),  # far apart
        (around(1.0, 0.03), [around(1.01, 0.03)], False),  # as near as no standard measurement tells apart
        (around(1.0, 0.03), [around(1.04, 0.03)], True),
        (around(1.0, 0.03), [around(2.0, 0.03), around(0.96, 0.03)], True),
        (around(1.0, 0.003), [around(1.04, 0.05)], False),  # the neighbour's fault
        (around(1.0, 0.05), [around(1.04, 0.003)], True),
        (around(1.0, 0.03), [[1.04] * 5], False),  # it has no interval, and a flag of its own
        (around(1.0, 0.08), [around(2.0, 0.03)], True),  # wide whatever stands beside it
    ],
)
def test_unstable_is_what_hides_a_difference(
    samples: list[float], neighbours: list[list[float]], expected: bool
) -> None:
    assert is_unstable(samples, neighbours, target_interval=0.01, unstable_interval=0.05) == expected


# Bimodal


def lognormal(generator: Generator, num_samples: int) -> Array:
    return generator.lognormal(sigma=0.5, size=num_samples)


def gamma(generator: Generator, num_samples: int) -> Array:
    return 1 + 0.1 * generator.gamma(2, size=num_samples)


def with_outliers(draw: Draw) -> Draw:
    """One sample of fifty takes 1.5 to 10 times as long."""

    def draw_with_outliers(generator: Generator, num_samples: int) -> Array:
        slower = np.where(generator.random(num_samples) < 0.02, generator.uniform(1.5, 10, num_samples), 1)
        return draw(generator, num_samples) * slower

    return draw_with_outliers


def ticking(draw: Draw, tick: float) -> Draw:
    """As read off a clock of a coarse resolution."""
    return lambda generator, num_samples: np.round(draw(generator, num_samples) / tick) * tick


def modes(share: float, distance: float, width: float = 0.01) -> Draw:
    """Two modes, the higher with this share of the samples, some widths (standard deviations) away."""

    def draw(generator: Generator, num_samples: int) -> Array:
        is_high = np.arange(num_samples) < share * num_samples
        return 1 + width * (generator.normal(size=num_samples) + distance * is_high)

    return draw


UNIMODAL: dict[str, Draw] = {
    "lognormal": lognormal,
    "lognormal with outliers": with_outliers(lognormal),
    "gamma with outliers": with_outliers(gamma),
    "exponential": lambda generator, n: 1 + generator.exponential(size=n),
    "flat": lambda generator, n: generator.uniform(1, 2, n),
    "lognormal, coarse clock": ticking(lognormal, 0.05),
    "normal, clock as coarse as the noise": ticking(
        lambda generator, n: 1 + 0.02 * generator.normal(size=n), 0.03
    ),
}


@pytest.mark.parametrize("num_samples", [20, 100, 200, 1000])
@pytest.mark.parametrize("distribution", UNIMODAL)
def test_one_mode_is_seldom_called_two(distribution: str, num_samples: int) -> None:
    assert rate_of(is_bimodal, UNIMODAL[distribution], num_samples, num_draws=2000) <= MOST_FALSE_ALARMS


@pytest.mark.parametrize(
    ("draw", "num_samples", "least"),
    [
        (modes(0.5, distance=12), 20, 0.95),
        (modes(0.5, distance=8), 50, 0.95),
        (modes(0.3, distance=8), 100, 0.95),
        (modes(0.15, distance=12), 100, 0.95),
        (modes(0.15, distance=8), 200, 0.95),
        (modes(0.15, distance=6), 1000, 0.95),
        (with_outliers(modes(0.3, distance=8)), 100, 0.95),
        (ticking(modes(0.3, distance=8), 0.01), 100, 0.95),
    ],
)
def test_two_separate_modes_are_found(draw: Draw, num_samples: int, least: float) -> None:
    assert rate_of(is_bimodal, draw, num_samples, num_draws=200) >= least


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([1.0], False),
        ([1.0, 2.0], False),
        ([1.0, 2.0] * 9 + [1.0], False),  # 19 are too few to tell
        ([1.0, 2.0] * 10, True),
        ([1.0, 2.0] * 10 + [1.0], True),
        ([1.0, 1.05] * 50, False),  # may be one step of a clock
        ([1.0, 1.01] * 25 + [1.05, 1.06] * 25, True),  # five steps
        ([1.0, 1.0005] * 25 + [1.015, 1.0155] * 25, False),  # 1.5 % is no matter
        ([1.0] * 50, False),
        ([1.0, 1.05, 1.0 + 1e-9] * 30, False),  # so may this be, read twice with another rounding
        ([1.0] * 95 + [2.0] * 5, False),  # outliers
        ([1.0] * 950 + [2.0] * 50, False),  # many of them are no group either
        ([1.0] * 80 + [2.0] * 20, True),
    ],
)
def test_bimodal_in_hand_worked_cases(samples: list[float], expected: bool) -> None:
    assert is_bimodal(samples) == expected


def test_bimodal_knows_no_order_and_no_unit() -> None:
    draws = [modes(0.3, distance=6)(np.random.default_rng(seed), 60) for seed in range(40)]
    found = [is_bimodal(samples) for samples in draws]
    assert {True, False} == set(found)
    assert [is_bimodal(1e-3 * samples[::-1]) for samples in draws] == found


def test_a_shallow_valley_separates_nothing() -> None:
    assert rate_of(is_bimodal, modes(0.5, distance=3), 2000, num_draws=200) <= MOST_FALSE_ALARMS


# Drifting


def resembling(correlation: float, noise: float) -> Draw:
    """Noise around 1 of which neighbours correlate: AR(1)."""

    def draw(generator: Generator, num_samples: int) -> Array:
        steady = lfilter([1], [1, -correlation], generator.normal(size=num_samples + 50))[50:]
        return np.asarray(1 + noise * np.sqrt(1 - correlation**2) * steady)

    return draw


def rising(change: float, noise: float) -> Draw:
    """A straight trend from first to last, in noise."""
    return lambda generator, n: 1 + change * np.linspace(-0.5, 0.5, n) + noise * generator.normal(size=n)


def stepping(change: float, noise: float, at: float) -> Draw:
    """A shift after a share of the samples, in noise."""
    return lambda generator, n: 1 + change * (np.arange(n) >= at * n) + noise * generator.normal(size=n)


def uneven_slices(generator: Generator, num_samples: int) -> Array:
    """Seven slices that differ from each other as calls within them do."""
    return 1 + 0.1 * (
        np.repeat(generator.normal(size=7), num_samples // 7) + generator.normal(size=num_samples)
    )


STEADY: dict[str, Draw] = {
    "normal": resembling(0.0, noise=0.1),
    "little noise": resembling(0.0, noise=0.02),
    "resembling": resembling(0.3, noise=0.1),
    "resembling, little noise": resembling(0.3, noise=0.02),
    "lognormal with outliers": with_outliers(lognormal),
}


@pytest.mark.parametrize("num_samples", [30, 100, 500])
@pytest.mark.parametrize("distribution", STEADY)
def test_steady_samples_seldom_drift(distribution: str, num_samples: int) -> None:
    assert rate_of(is_drifting, STEADY[distribution], num_samples, num_draws=2000) <= MOST_FALSE_ALARMS


def test_many_samples_that_resemble_each_other_more_do_not_drift() -> None:
    assert rate_of(is_drifting, resembling(0.7, noise=0.2), 600, num_draws=2000) <= MOST_FALSE_ALARMS


def test_slices_that_differ_do_not_drift_when_their_length_is_known() -> None:
    num_samples = 140
    sliced = rate_of(
        lambda samples: is_drifting(samples, [20] * 7), uneven_slices, num_samples, num_draws=1000
    )
    unsliced = rate_of(is_drifting, uneven_slices, num_samples, num_draws=1000)
    assert sliced <= MOST_FALSE_ALARMS < 0.05 < unsliced


@pytest.mark.parametrize(
    "draw",
    [
        rising(0.05, noise=0.02),
        rising(-0.05, noise=0.02),
        with_outliers(rising(0.05, noise=0.015)),
        stepping(0.06, noise=0.02, at=0.5),
        stepping(-0.06, noise=0.02, at=0.5),
    ],
    ids=["slower", "faster", "with outliers", "step", "step down"],
)
def test_trends_and_steps_of_100_samples_are_found(draw: Draw) -> None:
    assert rate_of(is_drifting, draw, 100, num_draws=1000) >= 0.95


@pytest.mark.parametrize(
    ("samples", "calls_per_slice", "expected"),
    [
        ([1.0], 1, False),
        ([1.0, 2.0], 1, False),
        ([1.0 + 0.01 * i for i in range(29)], 1, False),  # 29 are too few to tell
        ([1.0 + 0.01 * i for i in range(30)], 1, True),
        ([1.0 + 0.01 * i for i in range(31)], 1, True),
        ([2.0 - 0.01 * i for i in range(60)], 1, True),
        ([1.0 + 0.01 * i for i in range(60)], 10, True),
        ([1.0 + 0.01 * i for i in range(60)], 12, False),  # five slices are too few to tell
        ([1.0 + 0.01 * i for i in range(65)], 10, True),  # six, and a slice that was cut short
        ([1.0 + 0.0002 * i for i in range(100)], 1, False),  # 1.3 % from third to third is no matter
        ([1.0 + 0.0004 * i for i in range(100)], 1, True),  # 2.7 % is
        ([1.0] * 60, 1, False),
        ([1.0] * 59 + [100.0], 1, False),
        ([1.0] * 30 + [1.1] * 30, 1, True),
    ],
)
def test_drifting_in_hand_worked_cases(samples: list[float], calls_per_slice: int, expected: bool) -> None:
    whole, rest = divmod(len(samples), calls_per_slice)
    assert is_drifting(samples, [calls_per_slice] * whole + [rest] * bool(rest)) == expected


def test_slices_of_unequal_size_are_kept_whole() -> None:
    sizes = [1, 30, 2, 40, 3, 20, 1, 30]
    levels = [1.0, 1.02, 1.04, 1.06, 1.08, 1.1, 1.12, 1.14]
    rising = [level for size, level in zip(sizes, levels, strict=True) for _ in range(size)]
    assert is_drifting(rising, sizes)
    shuffled = [levels[place] for place in (3, 6, 0, 7, 1, 4, 2, 5)]
    assert not is_drifting(
        [level for size, level in zip(sizes, shuffled, strict=True) for _ in range(size)], sizes
    )


# All of them


def test_flags_of_samples_come_in_order() -> None:
    steady = list(1 + 0.001 * np.random.default_rng(0).normal(size=100))
    shifted = [sample * (1.0 if i < 50 else 1.5) for i, sample in enumerate(steady)]
    assert sample_flags(steady) == []
    assert sample_flags(shifted) == ["bimodal", "drifting"]
    assert sample_flags(shifted, [20] * 5) == ["bimodal"]


def conditions(**seen: Any) -> list[str]:
    nothing = {"throttle_reasons": None, "clock_mhz": None, "clock_range_mhz": None, "background_load": None}
    return condition_flags(**{**nothing, "num_cores": 8, **seen})


def test_what_was_not_seen_raises_no_flag() -> None:
    assert conditions() == []
    assert conditions(clock_mhz=1980.0) == conditions(clock_range_mhz=500.0) == []


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ([], []),
        (["gpu_idle", "applications_clocks_setting"], []),
        (["sw_power_cap"], ["throttled"]),
        (["gpu_idle", "hw_thermal_slowdown"], ["throttled"]),
    ],
)
def test_throttled_by_what_holds_clocks_back(reasons: list[str], expected: list[str]) -> None:
    assert conditions(throttle_reasons=reasons) == expected


def test_a_clock_that_moves_two_steps_has_not_changed() -> None:
    assert conditions(clock_mhz=1980.0, clock_range_mhz=30.0) == []
    assert conditions(clock_mhz=1980.0, clock_range_mhz=60.0) == ["clock_changed"]
    assert conditions(clock_mhz=1000.0, clock_range_mhz=31.0) == ["clock_changed"]


@pytest.mark.parametrize(
    ("load", "num_cores", "expected"),
    [
        (0.0, 2, []),
        (0.1, 2, []),
        (0.11, 2, ["background_load"]),
        (0.11, 10, ["background_load"]),
        (0.5, 128, []),
        (1.2, 128, []),
        (1.4, 128, ["background_load"]),
    ],
)
def test_background_load_by_size_of_the_machine(load: float, num_cores: int, expected: list[str]) -> None:
    assert conditions(background_load=load, num_cores=num_cores) == expected


def test_flags_of_conditions_come_in_order() -> None:
    raised = conditions(
        background_load=3.0, clock_range_mhz=500.0, clock_mhz=1500.0, throttle_reasons=["sw_thermal_slowdown"]
    )
    assert raised == ["throttled", "clock_changed", "background_load"]


def test_other_processes_on_the_gpu_are_background_load() -> None:
    assert conditions(gpu_other_processes=True) == ["background_load"]
    assert conditions(gpu_other_processes=False) == []


@pytest.mark.parametrize(("share", "flags"), [(0.0, []), (0.05, []), (0.06, ["launch_exposed"])])
def test_launches_that_were_not_hidden_are_flagged(share: float, flags: list[str]) -> None:
    assert conditions(exposed_share=share) == flags


@pytest.mark.parametrize(
    ("stated", "prepared", "given", "is_seen"),
    [
        (4096, 0, 4096, True),  # read in place
        (1024, 1088, 4096, True),  # a layout of its own, with tables beside it
        (1024, 0, 4096, False),  # a part of what it was given, of which all stays resident
        (8192, 4096, 4096, False),  # more than there is
        (0, 4096, 4096, False),
    ],
)
def test_a_cache_that_nobody_saw_is_flagged(stated: int, prepared: int, given: int, is_seen: bool) -> None:
    flags = cache_flags(kv_cache_bytes=stated, prepared_bytes=prepared, given_bytes=given, other_bytes=None)
    assert flags == ([] if is_seen else ["cache_unseen"])


@pytest.mark.parametrize(
    ("stated", "prepared", "is_understated"),
    [
        (4096, 100, False),  # read in place, with a mask
        (4096, 4096, False),  # a copy of the same size
        (4096, 4096 * 4, True),  # expanded for four query heads
        (1024, 1100, False),
        (1024, 8192, True),  # a quantised cache, and beside it something larger
    ],
)
def test_a_cache_that_is_larger_than_stated_is_flagged(
    stated: int, prepared: int, is_understated: bool
) -> None:
    flags = cache_flags(kv_cache_bytes=stated, prepared_bytes=prepared, given_bytes=4096, other_bytes=2048)
    assert flags == (["cache_understated"] if is_understated else [])


@pytest.mark.parametrize(
    ("unseen", "is_understated"), [(None, False), (0, False), (2**25, False), (2**26, True)]
)
def test_a_cache_outside_torch_is_flagged_beyond_what_libraries_grow_by(
    unseen: int | None, is_understated: bool
) -> None:
    flags = cache_flags(
        kv_cache_bytes=4096, prepared_bytes=0, given_bytes=4096, other_bytes=2048, unseen_bytes=unseen
    )
    assert flags == (["cache_understated"] if is_understated else [])
