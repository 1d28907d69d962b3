"""What can be compared: columns of a record, which way is better, and whether a byte counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from gqabench.results.columns import COLUMNS
from gqabench.results.entries import Compared, Unit

OUTCOME = "outcome"
"""Correctness and support: judged for every cell, whatever the policy names."""


@dataclass(frozen=True, kw_only=True)
class Metric(Compared):
    """A column that is compared."""

    column: str
    unit: Unit


def _metrics() -> dict[str, Metric]:
    found = {}
    for column in COLUMNS.values():
        if column.compared is not None:
            assert column.unit is not None, f"{column.name}: a metric has a unit"
            found[column.name] = Metric(column=column.name, unit=column.unit, **asdict(column.compared))
    return found


METRICS: Mapping[str, Metric] = _metrics()
"""Every metric by its column."""
