"""The part of a record that follows from an arm's samples and from what was seen while they were taken."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gqabench.harness.cases.case import Case
from gqabench.harness.instruments.monitor import Trace
from gqabench.harness.measure.rounds import Samples
from gqabench.results.flags import FLAG_MEANINGS, condition_flags, sample_flags
from gqabench.results.statistics.derive import rate_fields, timing_fields


def timed_fields(case: Case, samples: Mapping[str, Samples], trace: Trace) -> dict[str, Any]:
    """Record fields, `flags` among them. `samples` are by state of the caches; the first is the latency's."""
    state, *other_states = samples
    timed = samples[state]
    fields = timing_fields(timed.samples_ms)
    if other_states:
        fields |= _warm_fields(samples[other_states[0]].samples_ms)
    model = case.model_fields()
    rates = rate_fields(
        fields["latency_ms"],
        case.problem.batch_size * case.problem.q_len,
        model["model_bytes"],
        model["model_flops"],
    )
    conditions = trace.record_fields()
    of_series = [
        sample_flags(one.samples_ms, case.measure.target_interval, one.calls_per_slice)
        for one in samples.values()
    ]
    flags = [flag for flag in FLAG_MEANINGS if any(flag in raised for raised in of_series)]
    flags += condition_flags(
        throttle_reasons=conditions["throttle_reasons"],
        clock_mhz=conditions["clock_mhz"],
        clock_range_mhz=trace.clock_range_mhz,
        background_load=conditions["background_load"],
        num_cores=os.cpu_count() or 1,
        gpu_other_processes=trace.gpu_other_processes,
        exposed_share=timed.num_exposed / len(timed.samples_ms),
    )
    return {
        **model,
        **fields,
        **rates,
        **conditions,
        "num_processes": 1,
        "cache_state": state,
        "calls_per_slice": timed.calls_per_slice,
        "flags": flags,
    }


def _warm_fields(samples_ms: list[float]) -> dict[str, Any]:
    timing = timing_fields(samples_ms)
    names = ("latency_ms", "latency_ci_low_ms", "latency_ci_high_ms", "samples_ms")
    return {f"warm_{name}": timing[name] for name in names}
