"""The part of a record that follows from an arm's samples and from what was seen while they were taken."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from harness.case import Case
from harness.monitor import Trace
from harness.rounds import Samples
from results.derive import rate_fields, timing_fields
from results.flags import condition_flags, sample_flags
from results.statistics import median


def timed_fields(case: Case, samples: Mapping[str, Samples], trace: Trace) -> dict[str, Any]:
    """Record fields, `flags` among them. `samples` are by state of the caches; the first is the latency's."""
    state, *other_states = samples
    timed = samples[state]
    fields = timing_fields(timed.samples_ms)
    if other_states:
        warm_ms = samples[other_states[0]].samples_ms
        fields |= {"warm_samples_ms": warm_ms, "warm_latency_ms": median(warm_ms)}
    model = case.model_fields()
    rates = rate_fields(
        fields["latency_ms"],
        case.problem.batch_size * case.problem.q_len,
        model["model_bytes"],
        model["model_flops"],
    )
    conditions = trace.record_fields()
    flags = sample_flags(timed.samples_ms, case.measure.target_interval, timed.calls_per_slice)
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
