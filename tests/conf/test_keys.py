"""The keys of a sweep: those of the run from `conf`, those of the problem from the table of axes."""

from __future__ import annotations

import pickle
from dataclasses import fields

import pytest
from omegaconf import MISSING, OmegaConf

from gqabench.attention_impls import AttentionProblem
from gqabench.conf import MeasureConfig, RunConfig, own_keys
from gqabench.harness.cases.keys import SweepConfig, axis_keys
from gqabench.results.axes import AXES

OF_NO_PROBLEM = {"model", "tp", "num_layers", "hf_cache", "model_layers", "intermediate_size"}
"""Axes that a case holds itself: of the model around the problem."""


def test_the_schema_has_the_axes_then_the_keys_of_the_run() -> None:
    run_keys = [key.name for key in own_keys(RunConfig)]
    assert [item.name for item in fields(SweepConfig)] == [*AXES, *run_keys]


def test_every_key_says_what_it_is() -> None:
    for key in (*axis_keys(), *own_keys(RunConfig), *own_keys(MeasureConfig)):
        assert key.about.endswith("."), key.name


def test_what_each_case_must_give_has_no_default() -> None:
    defaults = {key.name: key.default for key in axis_keys()}
    assert {name for name, default in defaults.items() if default == MISSING} == {
        "batch_size", "kv_len", "num_q_heads", "num_kv_heads", "head_dim", "dtype",
    }  # fmt: skip
    assert (defaults["tp"], defaults["window"], defaults["q_len"]) == (1, None, None)


@pytest.mark.parametrize("key", sorted(AXES.keys() - OF_NO_PROBLEM))
def test_an_axis_means_something_to_the_problem_by_the_same_default(key: str) -> None:
    problem = {item.name: item for item in fields(AttentionProblem)}
    assert key in problem, "an axis is a field of AttentionProblem"
    if AXES[key].column.default in (None, True, False):
        assert problem[key].default == AXES[key].column.default


def test_a_configuration_goes_to_a_launcher_and_back() -> None:
    config = OmegaConf.structured(SweepConfig)
    assert OmegaConf.get_type(pickle.loads(pickle.dumps(config))) is SweepConfig
