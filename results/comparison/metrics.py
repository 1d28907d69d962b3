"""What can be compared: columns of a record, which way is better, and whether a byte counts."""

from __future__ import annotations

from dataclasses import dataclass

OUTCOME = "outcome"
"""Correctness and support: judged for every cell, whatever the policy names."""


@dataclass(frozen=True)
class Metric:
    """One column of a record."""

    column: str
    unit: str
    is_exact: bool
    """The same each time, so that any difference is one; the others scatter."""
    is_machine_independent: bool = False
    """Means the same on another machine."""
    higher_is_better: bool = False
    is_instead_of_times: bool = False
    """Judged only where times are not, since it says the same on one machine."""
    is_by_thread: bool = False
    """Kernels for the CPU take a buffer for each thread: comparable with equally many threads alone."""


METRICS = {
    metric.column: metric
    for metric in (
        Metric("latency_ms", "ms", is_exact=False),
        Metric("eager_ms", "ms", is_exact=False),
        Metric("energy_j_per_call", "J", is_exact=False),
        Metric(
            "roof_fraction",
            "share",
            is_exact=False,
            is_machine_independent=True,
            higher_is_better=True,
            is_instead_of_times=True,
        ),
        Metric("kv_cache_bytes", "bytes", is_exact=True, is_machine_independent=True),
        Metric(
            "peak_workspace_bytes", "bytes", is_exact=True, is_machine_independent=True, is_by_thread=True
        ),
        Metric("graph_pool_bytes", "bytes", is_exact=True),
    )
}
