from __future__ import annotations

import math
from typing import Any

import pytest
import yaml

from gqabench.conf import list_presets, read_preset
from gqabench.results.comparison.policy import Policy, Rule

VALUES = yaml.safe_load("""
metrics:
  latency_ms: {min_effect: 0.02}
  kv_cache_bytes: {}
cells:
  - match: {impl: "sdpa*", kv_len: 64, window: null}
    metrics: {latency_ms: {min_effect: 0.2}}
  - match: {impl: "sdpa_math"}
    metrics: {latency_ms: {is_judged: false}}
""")


def row(**changes: Any) -> dict[str, Any]:
    return {"impl": "flex", "kv_len": 64, "window": None} | changes


def test_the_first_group_that_matches_decides() -> None:
    policy = Policy.from_dict("mine", VALUES)
    assert policy.rule("latency_ms", row()) == Rule(min_effect=0.02)
    assert policy.rule("latency_ms", row(impl="sdpa_math")) == Rule(min_effect=0.2)
    assert policy.rule("latency_ms", row(impl="sdpa_math", kv_len=128)) is None
    assert policy.rule("latency_ms", row(impl="sdpa", window=5)) == Rule(min_effect=0.02)
    assert policy.rule("kv_cache_bytes", row(impl="sdpa")) == Rule()  # a group changes only what it names
    assert policy.rule("peak_workspace_bytes", row()) is None


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ([], "mine: must be keys with values"),
        ({"metric": {}}, "mine: metric: unknown key; valid: assumed_run_spread, cells"),
        ({"metrics": {"latency": {}}}, "metrics: latency: unknown key; valid: eager_ms"),
        ({"metrics": {"latency_ms": {"min": 1}}}, "latency_ms: min: unknown key"),
        ({"metrics": {"latency_ms": {"min_effect": "2 %"}}}, "min_effect=2 %: must be a number"),
        ({"metrics": {"latency_ms": {"min_effect": -1}}}, "min_effect=-1: must be a number of 0 or more"),
        ({"metrics": {"latency_ms": {"is_judged": 1}}}, "is_judged=1: must be true or false"),
        ({"metrics": {}, "false_discovery_rate": 5}, "false_discovery_rate=5: must be a positive number"),
        ({"metrics": {}, "false_discovery_rate": 1}, "must be a positive number up to 0.5"),
        ({"metrics": {"latency_ms": {"min_increase": 1}}}, "min_increase: is for exact metrics"),
        ({"metrics": {"latency_ms": {"min_effect": math.inf}}}, "min_effect=inf: must be a number"),
        ({"metrics": {}, "cells": [{"match": {"colour": 1}, "metrics": {}}]}, "match: colour: unknown key"),
    ],
)
def test_a_mistake_names_its_key(values: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match="mine") as caught:
        Policy.from_dict("mine", values)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("name", list_presets("regression"))
def test_every_ready_policy_is_one(name: str) -> None:
    assert Policy.from_dict(name, read_preset("regression", name).values).rules
