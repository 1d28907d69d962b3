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
    """A column that is compared, or what is derived from one."""

    name: str
    column: str
    """Of the record: the same as the name, unless the metric is derived from it."""
    unit: Unit


def _metrics() -> dict[str, Metric]:
    found = {}
    for column in COLUMNS.values():
        if column.compared is not None:
            assert column.unit is not None, f"{column.name}: a metric has a unit"
            found[column.name] = Metric(
                name=column.name, column=column.name, unit=column.unit, **asdict(column.compared)
            )
    return found


METRICS: Mapping[str, Metric] = _metrics()
"""Every metric that is a column, by its name."""

LATENCY = METRICS["latency_ms"]

RELATIVE_LATENCY = Metric(name="relative_latency", column=LATENCY.column, unit=Unit.RATIO, is_exact=False)
"""A cell's latency over that of its case's arms in the same run: what an environment did to all cancels.
Judged where the environment moved (`gqabench.results.comparison.relative_latency`)."""

JUDGED_METRICS: Mapping[str, Metric] = {**METRICS, RELATIVE_LATENCY.name: RELATIVE_LATENCY}
"""Every metric that a verdict may be of, and a policy may name."""
