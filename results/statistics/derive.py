"""What follows from raw samples and counts: pure functions, so that stored runs can be derived anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gqabench.results.statistics.samples import median, median_interval


def timing_fields(samples_ms: Sequence[float]) -> dict[str, Any]:
    """Return the latency's record fields: median and 95 % interval. Raises `ValueError` without samples."""
    interval = median_interval(samples_ms)
    return {
        "samples_ms": list(samples_ms),
        "latency_ms": median(samples_ms),
        "latency_ci_low_ms": None if interval is None else interval.low,
        "latency_ci_high_ms": None if interval is None else interval.high,
        "latency_half_interval": (
            None if interval is None else interval.relative_half_width(median(samples_ms))
        ),
    }


def rate_fields(latency_ms: float, num_new_tokens: int, model_bytes: int, model_flops: int) -> dict[str, Any]:
    """Return the record fields of the rates that a latency means. GB is 10^9 bytes; TFLOP is 10^12."""
    seconds = latency_ms / 1e3
    return {
        "tokens_per_s": num_new_tokens / seconds,
        "achieved_gb_per_s": model_bytes / seconds / 1e9,
        "achieved_tflop_per_s": model_flops / seconds / 1e12,
    }


def is_narrow(samples_ms: Sequence[float], target_interval: float) -> bool:
    """Return whether half the 95 % interval of the median is at most `target_interval` of it."""
    interval = median_interval(samples_ms)
    return interval is not None and interval.relative_half_width(median(samples_ms)) <= target_interval
