"""The panels of a figure of samples: which series belong together, and what their axis of latency covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gqabench.reports.frames.samples import LATENCY_SERIES, WARM_SERIES, Series
from gqabench.results.comparison.verdicts import cell_key, problem_text

_SHORT_LABEL = 12
"""Letters: longer ones are not repeated in a legend."""
_OUTLIER_SPANS = 1.5
"""Beyond the 5 % and 95 % quantiles by so many times what lies between them, a call is drawn at the edge."""
_LEAST_SPAN = 0.02
"""Of the median: what scatters less is not magnified further."""


@dataclass(frozen=True)
class Member:
    """One series in a row of panels."""

    series: Series
    label: str
    """What tells it from the others of its row."""
    name: str
    """The same in a few letters: itself, or its number."""
    number: int
    """Its place among the others, from 0."""


@dataclass(frozen=True)
class PanelRow:
    """One series of an implementation on a problem, in every run and environment that was asked for."""

    title: str
    members: tuple[Member, ...]

    @property
    def limits_ms(self) -> tuple[float, float]:
        """What the axis of latency covers: calls beyond it are far from all others."""
        lows, highs = zip(*(_limits(one.series.samples_ms) for one in self.members), strict=True)
        return min(lows), max(highs)


def panel_rows(series: Sequence[Series]) -> list[PanelRow]:
    """Group series into rows: those that time the same call of one implementation on one problem."""
    grouped: dict[tuple[str, ...], list[Series]] = {}
    for one in series:
        key = str(one.row["impl"]), problem_text(one.row), _kind(one)
        grouped.setdefault(key, []).append(one)
    return [PanelRow(_title(group), _members(group)) for group in grouped.values()]


def _kind(series: Series) -> str:
    """Return what a series times beside others of its cell: `, warm caches`; empty where nothing says it."""
    state = "" if series.cache_state is None else f", {series.cache_state} caches"
    return state if series.name in (LATENCY_SERIES, WARM_SERIES) else f"{state}, {series.name}"


def _title(group: Sequence[Series]) -> str:
    first = group[0]
    arms = {cell_key(one.row).arm for one in group}
    arm = arms.pop() if len(arms) == 1 else first.row["impl"]
    return f"{arm}, {problem_text(first.row)}{_kind(first)}"


def _members(group: Sequence[Series]) -> tuple[Member, ...]:
    keys = [key for key in ("environment", "model", "run_id") if len({one.row[key] for one in group}) > 1]
    labels = [" · ".join(str(one.row[key]) for key in keys or ["run_id"]) for one in group]
    if len(group) > 1 and max(map(len, labels)) > _SHORT_LABEL:
        names = [str(number) for number in range(1, len(group) + 1)]
        labels = [f"{name}: {label}" for name, label in zip(names, labels, strict=True)]
    else:
        names = labels
    return tuple(
        Member(one, label, name, number)
        for number, (one, label, name) in enumerate(zip(group, labels, names, strict=True))
    )


def _limits(samples: Sequence[float]) -> tuple[float, float]:
    """Return what an axis covers: all samples but those far beyond the others."""
    low, middle, high = np.quantile(samples, [0.05, 0.5, 0.95])
    reach = _OUTLIER_SPANS * max(high - low, _LEAST_SPAN * middle)
    return max(min(samples), low - reach), min(max(samples), high + reach)
