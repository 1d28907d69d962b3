"""The part of a record that follows from an arm's samples and from what was seen while they were taken."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gqabench.harness.cases.case import Arm, Case
from gqabench.harness.instruments.monitor import Trace
from gqabench.harness.measure.rounds import Samples, TimedArm
from gqabench.results.flags import FLAG_MEANINGS, FLAG_UNSTABLE, condition_flags, is_unstable, sample_flags
from gqabench.results.statistics.derive import rate_fields, timing_fields


def timed_fields(case: Case, arm: Arm, timed: Mapping[TimedArm, Samples], trace: Trace) -> dict[str, Any]:
    """Record fields of one arm, `flags` among them. `timed` has all arms of the case.

    Of the states of the caches the first is the latency's.
    """
    state, *other_states = case.measure.caches
    latency = timed[TimedArm(arm, state)]
    fields = _series_fields(latency)
    if other_states:
        warm = _series_fields(timed[TimedArm(arm, other_states[0])])
        fields |= {f"warm_{name}": warm[name] for name in _OF_BOTH_STATES}
    model = case.model_fields()
    rates = rate_fields(
        fields["latency_ms"],
        case.problem.batch_size * case.problem.q_len,
        model["model_bytes"],
        model["model_flops"],
    )
    own_load, conditions = latency.own_load, trace.record_fields()
    if conditions["background_load"] is not None:
        conditions["background_load"] += own_load
    flags = _flags_of_series(case, arm, timed)
    flags += condition_flags(
        throttle_reasons=conditions["throttle_reasons"],
        clock_mhz=conditions["clock_mhz"],
        clock_range_mhz=trace.clock_range_mhz,
        background_load=conditions["background_load"],
        num_cores=os.cpu_count() or 1,
        gpu_other_processes=trace.gpu_other_processes,
        exposed_share=latency.num_exposed / len(latency.samples_ms),
        own_load=own_load,
    )
    return {
        **model,
        **fields,
        **rates,
        **conditions,
        "num_processes": 1,
        "cache_state": state,
        "calls_per_slice": max(latency.slice_sizes),
        "shared_cores_with": latency.shared_with or None,
        "flags": flags,
    }


_OF_BOTH_STATES = ("latency_ms", "latency_ci_low_ms", "latency_ci_high_ms", "samples_ms", "slice_sizes")


def _series_fields(samples: Samples) -> dict[str, Any]:
    return {**timing_fields(samples.samples_ms), "slice_sizes": list(samples.slice_sizes)}


def _flags_of_series(case: Case, arm: Arm, timed: Mapping[TimedArm, Samples]) -> list[str]:
    """Return the flags that any of the arm's series raises, in the order of `FLAG_MEANINGS`."""
    raised: set[str] = set()
    for state in case.measure.caches:
        own = timed[TimedArm(arm, state)]
        neighbours = [
            samples.samples_ms
            for one, samples in timed.items()
            if one.cache_state == state and one.arm != arm
        ]
        raised.update(sample_flags(own.samples_ms, own.slice_sizes))
        if is_unstable(
            own.samples_ms,
            neighbours,
            target_interval=case.measure.target_interval,
            unstable_interval=case.measure.unstable_interval,
        ):
            raised.add(FLAG_UNSTABLE)
    return [flag for flag in FLAG_MEANINGS if flag in raised]
