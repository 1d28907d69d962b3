"""Verdicts of metrics that scatter, with the false discovery rate controlled over all cells of one metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

from gqabench.results.comparison.measured_cells import CellValues
from gqabench.results.comparison.metrics import Metric
from gqabench.results.comparison.policy import Policy
from gqabench.results.comparison.run_spread import Judged, judge_values
from gqabench.results.comparison.verdicts import Answer, CellKey, Verdict

RELEASE_LEVEL = 0.05
"""Error of calling "no regression" what is slower by the minimum effect."""
INTERVAL_LEVEL = 0.025


def judge_cells(cells: Mapping[CellKey, CellValues], metric: Metric, policy: Policy) -> list[Verdict]:
    """Return the verdict of every cell, in their order."""
    from scipy.stats import false_discovery_control

    if not cells:
        return []
    values = {cell: one.logs(metric) for cell, one in cells.items()}
    judged = judge_values(values, policy.assumed_run_spread, policy.false_discovery_rate)
    worse = false_discovery_control([one.p_worse for one in judged.values()])
    better = false_discovery_control([one.p_better for one in judged.values()])
    adjusted = {cell: (float(worse[place]), float(better[place])) for place, cell in enumerate(judged)}
    return [_verdict(cell, metric, cells[cell], judged[cell], adjusted[cell], policy) for cell in cells]


def _verdict(
    cell: CellKey,
    metric: Metric,
    values: CellValues,
    judged: Judged,
    adjusted: tuple[float, float],
    policy: Policy,
) -> Verdict:
    answer, reason = _answer(values, judged, adjusted, policy)
    sign = -1 if metric.higher_is_better else 1
    ends = sorted(math.expm1(sign * judged.bound(INTERVAL_LEVEL, side)) for side in (-1, 1))
    return Verdict(
        cell=cell,
        metric=metric.name,
        answer=answer,
        is_improvement=answer == Answer.NO_REGRESSION and adjusted[1] <= policy.false_discovery_rate,
        base=median(values.base.values()),
        new=median(values.new.values()),
        change=math.expm1(sign * judged.log_ratio),
        change_low=ends[0],
        change_high=ends[1],
        min_effect=values.min_effect,
        smallest_detectable_change=math.expm1(judged.detectable),
        p_value=adjusted[0],
        num_base=len(values.base),
        num_new=len(values.new),
        reason=reason,
    )


def _answer(
    values: CellValues, judged: Judged, adjusted: tuple[float, float], policy: Policy
) -> tuple[Answer, str]:
    """Return the answer, with its reason in a few words."""
    p_worse, p_better = adjusted
    is_single = len(values.base) == len(values.new) == 1
    if p_worse <= policy.false_discovery_rate:
        if is_single:
            return Answer.REGRESSION, "worse than one run a side explains"
        return Answer.REGRESSION, "worse beyond the minimum effect and the spread of the runs"
    is_below = judged.bound(RELEASE_LEVEL, 1) < math.log1p(values.min_effect)
    if is_below or p_better <= policy.false_discovery_rate:
        return Answer.NO_REGRESSION, f"less than {values.min_effect:.1%} worse"
    if is_single:
        return Answer.INCONCLUSIVE, "one run a side says nothing about the spread of runs"
    return Answer.INCONCLUSIVE, "runs scatter too much"
