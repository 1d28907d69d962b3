from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from gqabench.attention_impls import list_impls
from gqabench.attention_impls.registry import BUILT_IN_IMPLS
from gqabench.conf.presets import CONF_FOLDER, PRESET_GROUPS, list_presets, read_preset
from gqabench.harness.cases.keys import register_keys

ALL_PRESETS = [(group, name) for group in PRESET_GROUPS for name in list_presets(group)]


def compose_sweep(*overrides: str) -> DictConfig:
    register_keys()
    with initialize_config_module("gqabench.conf", version_base="1.3"):
        return compose("sweep", overrides=list(overrides))


def test_every_yaml_is_a_preset_or_the_primary_config() -> None:
    files = {path.relative_to(CONF_FOLDER) for path in CONF_FOLDER.rglob("*.yaml")}
    presets = {Path(group) / f"{name}.yaml" for group, name in ALL_PRESETS}
    policies = {Path("regression") / f"{name}.yaml" for name in list_presets("regression")}  # not of a sweep
    assert files == presets | policies | {Path("sweep.yaml")}


@pytest.mark.parametrize(("group", "name"), ALL_PRESETS)
def test_every_preset_composes_and_is_named_after_its_file(group: str, name: str) -> None:
    config = compose_sweep(f"{group}={name}")
    resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    if group == "measure":
        assert config.measure.name == name
    elif group != "impl_set":
        assert resolved[group] == name
    assert read_preset(group, name).about, "a preset says what it is, in a comment"


@pytest.mark.parametrize("name", list_presets("impl_set"))
def test_impl_sets_name_listed_impls(name: str) -> None:
    assert set(compose_sweep(f"impl_set={name}").impls) <= set(list_impls())


def test_the_set_of_all_is_the_registry() -> None:
    assert compose_sweep("impl_set=all").impls == list(BUILT_IN_IMPLS)


def test_impls_override_the_set() -> None:
    assert compose_sweep("impl_set=sdpa", "impls=[flex]").impls == ["flex"]


@pytest.mark.parametrize("name", list_presets("model"))
def test_models_state_their_source(name: str) -> None:
    about = read_preset("model", name).about
    assert "arXiv" in about
    assert read_preset("model", name).values["num_layers"] >= 1


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("mha_8", (8, 8, 64)),
        ("gqa_8_2", (8, 2, 64)),
        ("mqa_8", (8, 1, 64)),
        ("llama2_7b", (32, 32, 128)),
        ("llama2_70b", (64, 8, 128)),
        ("llama3_8b", (32, 8, 128)),
        ("llama3_1_405b", (128, 8, 128)),
        ("mistral_7b", (32, 8, 128)),
        ("qwen2_5_7b", (28, 4, 128)),
        ("gemma_2b", (8, 1, 256)),
        ("falcon_7b", (71, 1, 64)),
    ],
)
def test_model_heads_are_the_published_ones(name: str, heads: tuple[int, int, int]) -> None:
    values = read_preset("model", name).values
    assert (values["num_q_heads"], values["num_kv_heads"], values["head_dim"]) == heads


def test_mistral_brings_its_window_and_others_none() -> None:
    assert compose_sweep("model=mistral_7b").window == 4096
    assert compose_sweep("model=llama3_8b").window is None


def test_prefill_follows_the_context() -> None:
    assert compose_sweep("workload=prefill", "kv_len=77").q_len == 77


def test_values_on_top_of_a_model_win() -> None:
    config = compose_sweep("num_kv_heads=4", "model=llama2_7b")
    assert (config.num_q_heads, config.num_kv_heads) == (32, 4)
