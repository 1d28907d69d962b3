"""A relative change from paired log ratios: its estimate, its interval, and what would have been seen."""

from __future__ import annotations

import math

from gqabench.results.statistics.signed_rank import Values, location, lower_bound, upper_bound

INTERVAL_LEVEL = 0.025
"""Error on each side of the interval that is reported."""


def change_and_interval(log_ratios: Values) -> tuple[float | None, float | None, float | None]:
    """Estimate the relative change and its 95 % interval; None for what so few pairs do not give."""
    if len(log_ratios) == 0:
        return None, None, None
    bounds = (lower_bound(log_ratios, INTERVAL_LEVEL), upper_bound(log_ratios, INTERVAL_LEVEL))
    low, high = (None if bound is None else math.expm1(bound) for bound in bounds)
    return math.expm1(location(log_ratios)), low, high


def smallest_detectable_change(log_ratios: Values, point: float, level: float) -> float | None:
    """Return the slowdown that the test would have called, had these log ratios been shifted to it.

    Shifted to a location `s`, their lower bound is `s - (location - bound)`: it is beyond `point` from
    `s = point + location - bound` on. None where there are too few pairs for any call at this level.
    """
    bound = lower_bound(log_ratios, level) if len(log_ratios) else None
    return None if bound is None else math.expm1(point + location(log_ratios) - bound)
