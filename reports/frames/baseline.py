"""Speed-ups: which implementation the others are compared with, and by how much they beat it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gqabench.reports.frames.doubts import high_end, low_end
from gqabench.reports.frames.tidy import cells
from gqabench.results.axes import PROBLEM_KEYS

BASE_IMPLS = ("repeat_kv", "repeat_kv_sdpa", "sdpa_math", "reference", "sdpa")
"""The first of these that was measured is the base: expanding K and V is what GQA replaces."""


def base_arm(frame: pd.DataFrame) -> str | None:
    """Return the arm that speed-ups are relative to: of the first known base impl, else the slowest arm.

    None where there is nothing to compare: fewer than two arms.
    """
    rows = frame[frame["latency_ms"].notna()]
    if rows["arm"].nunique() < 2:
        return None
    for impl in BASE_IMPLS:
        arms = rows.loc[(rows["impl"] == impl) & (rows["variant"] == 0), "arm"]
        if len(arms):
            return str(arms.iloc[0])
    return in_speed_order(rows)[-1]


def speed_ups(frame: pd.DataFrame, base: str) -> pd.DataFrame:
    """Return the `ok` cells of a tidy frame with `speed_up` over the arm `base` on the same problem.

    `base_flags` are the base's own there, and `is_slower` says that the intervals lie apart. Problems that
    the base has no latency for are left out.
    """
    rows = cells(frame)
    keys = list(PROBLEM_KEYS)
    problem = rows.groupby(keys, dropna=False, sort=False).ngroup()
    of_base = rows["arm"] == base
    of_problem = rows[of_base].set_index(problem[of_base])
    of_problem = of_problem[~of_problem.index.duplicated()]
    speed_up = problem.map(of_problem["latency_ms"]) / rows["latency_ms"]
    compared = rows.assign(
        speed_up=speed_up,
        base_flags=problem.map(of_problem["flags"]),
        is_slower=low_end(rows) > problem.map(high_end(of_problem)),
    )
    return compared[speed_up.notna()]


def geometric_mean(values: pd.Series[float]) -> float:
    """Return the mean of factors: `exp(mean(log(x)))`. NaN for no values."""
    return float(np.exp(np.log(values.astype(float)).mean())) if len(values) else float("nan")


def in_speed_order(frame: pd.DataFrame) -> list[str]:
    """Return arms from the fastest to the slowest, by the geometric mean of latency over the problem's best.

    Each problem counts alike, however long it takes, and an arm is judged where it ran.
    """
    rows = frame[frame["latency_ms"].notna()]
    if len(rows) == 0:
        return []
    best = rows.groupby(list(PROBLEM_KEYS), dropna=False)["latency_ms"].transform("min")
    slowness = rows.assign(slowness=np.log(rows["latency_ms"] / best)).groupby("arm")["slowness"].mean()
    return [str(arm) for arm in slowness.sort_values(kind="stable").index]
