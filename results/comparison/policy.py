"""What counts as a regression: by metric, and by group of cells. Values from YAML, given meaning here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from gqabench.results.comparison.metrics import JUDGED_METRICS
from gqabench.results.record import RECORD_FIELDS

MOST_FALSE_DISCOVERIES = 0.5
"""With a larger share every cell would be an alarm, faster ones too."""


@dataclass(frozen=True)
class Rule:
    """When a change of one metric is worth a word: beyond both limits."""

    min_effect: float = 0.0
    """Relative: 0.02 is 2 %."""
    min_increase: float = 0.0
    """In the metric's own unit. For exact metrics only."""
    is_judged: bool = True

    @classmethod
    def from_dict(cls, values: Any, where: str) -> Rule:
        """Return the rule of some values. Raises `ValueError` naming the key."""
        values = _mapping(values or {}, where)
        _require_known(values, {item.name for item in fields(cls)}, where)
        for key in ("min_effect", "min_increase"):
            _require_number(values.get(key, 0), f"{where}.{key}", 0, float("inf"))
        if not isinstance(values.get("is_judged", True), bool):
            raise ValueError(f"{where}.is_judged={values['is_judged']}: must be true or false")
        return cls(**values)


@dataclass(frozen=True)
class CellGroup:
    """Cells by patterns, and the rules that hold for them instead of the general ones."""

    match: Mapping[str, str]
    """Record columns to shell patterns, all of which must match: `{impl: "sdpa*", kv_len: "4096"}`."""
    rules: Mapping[str, Rule]

    def has(self, row: Mapping[str, Any]) -> bool:
        """Return whether a record is of this group. A null reads `null`."""
        return all(
            fnmatchcase("null" if row[column] is None else str(row[column]), pattern)
            for column, pattern in self.match.items()
        )


@dataclass(frozen=True)
class Policy:
    """All rules. Of the groups the first that matches a cell decides."""

    name: str
    rules: Mapping[str, Rule]
    groups: Sequence[CellGroup] = ()
    false_discovery_rate: float = 0.05
    """The share of false alarms among the alarms, over all cells."""
    assumed_run_spread: float = 0.10
    """Relative standard deviation from run to run, assumed where a single run a side tells nothing of it."""

    def rule(self, metric: str, row: Mapping[str, Any]) -> Rule | None:
        """Return the rule for a metric of a record's cell; None where it is not judged.

        A metric that is derived from a column follows the column's rule, unless it has one of its own.
        """
        group = next((group for group in self.groups if group.has(row)), None)
        own_rules = {} if group is None else group.rules
        for name in (metric, JUDGED_METRICS[metric].column):
            rule = own_rules.get(name, self.rules.get(name))
            if rule is not None:
                return rule if rule.is_judged else None
        return None

    @property
    def judges_times(self) -> bool:
        """Whether any cell's latency is judged."""
        rules = [self.rules.get("latency_ms"), *(group.rules.get("latency_ms") for group in self.groups)]
        return any(rule is not None and rule.is_judged for rule in rules)

    @classmethod
    def from_dict(cls, name: str, values: Any) -> Policy:
        """Return the policy of a YAML file's values. Raises `ValueError`: key, value and what is valid."""
        values = _mapping(values, name)
        _require_known(values, {"false_discovery_rate", "assumed_run_spread", "metrics", "cells"}, name)
        numbers = {
            key: values[key] for key in ("false_discovery_rate", "assumed_run_spread") if key in values
        }
        for key, value in numbers.items():
            _require_number(value, f"{name}: {key}", 1e-9, MOST_FALSE_DISCOVERIES if "rate" in key else 1)
        cells = values.get("cells") or []
        if not isinstance(cells, list):
            raise ValueError(f"{name}: cells={cells}: must be a list of groups with match and metrics")
        return cls(
            name=name,
            rules=_rules(values.get("metrics"), f"{name}: metrics"),
            groups=[_group(group, f"{name}: cells[{place}]") for place, group in enumerate(cells)],
            **numbers,
        )


def _group(values: Any, where: str) -> CellGroup:
    values = _mapping(values, where)
    _require_known(values, {"match", "metrics"}, where)
    match = _mapping(values.get("match"), f"{where}.match")
    _require_known(match, set(RECORD_FIELDS), f"{where}.match")
    patterns = {column: "null" if value is None else str(value) for column, value in match.items()}
    return CellGroup(patterns, _rules(values.get("metrics"), f"{where}.metrics"))


def _rules(values: Any, where: str) -> dict[str, Rule]:
    values = _mapping(values, where)
    _require_known(values, set(JUDGED_METRICS), where)
    rules = {metric: Rule.from_dict(rule, f"{where}.{metric}") for metric, rule in values.items()}
    for metric, rule in rules.items():
        if rule.min_increase and not JUDGED_METRICS[metric].is_exact:
            raise ValueError(f"{where}.{metric}.min_increase: is for exact metrics; {metric} has min_effect")
    return rules


def _mapping(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: must be keys with values, not {values!r}")
    return values


def _require_known(values: Mapping[str, Any], valid: set[str], where: str) -> None:
    for key in values:
        if key not in valid:
            raise ValueError(f"{where}: {key}: unknown key; valid: {', '.join(sorted(valid))}")


def _require_number(value: Any, where: str, low: float, high: float) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not low <= value <= high
        or value == float("inf")
    ):
        limits = "a number of 0 or more" if low == 0 else f"a positive number up to {high:g}"
        raise ValueError(f"{where}={value}: must be {limits}")
