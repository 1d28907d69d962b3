"""The page of the keys of a sweep and of their presets."""

from __future__ import annotations

from typing import Any, cast

from hydra import compose, initialize_config_module
from markdown import code, codes, page, table
from omegaconf import DictConfig, OmegaConf

from gqabench.conf.presets import CONF_FOLDER, Preset, list_presets, read_preset
from gqabench.conf.schema import MeasureConfig, RunConfig, own_keys
from gqabench.harness.cases.keys import register_keys
from gqabench.results.axes import AXES
from gqabench.results.columns import COLUMNS

_INTRODUCTION = """\
A key is given as `key=value`, in Hydra's
[grammar](https://hydra.cc/docs/advanced/override_grammar/basic/). With `-m`, every combination of
comma-separated values is a case. `gqabench plan` and `gqabench ab` take the same keys."""

_PRESETS = """\
A preset sets several keys at once: `model=llama2_7b` sets the heads. A key that you give yourself wins.
`--config-dir DIR` adds presets of your own."""


def keys_page() -> str:
    """Return the tables of keys, groups and presets."""
    chosen, defaults = _chosen_presets(), _default_values()
    groups = [(code(group), code(name), codes(list_presets(group))) for group, name in chosen.items()]
    parts = [
        _INTRODUCTION,
        table(("key", "type", "default", "meaning"), _key_rows(chosen, defaults)),
        "## Presets",
        _PRESETS,
        table(("group", "default", "presets"), groups),
        "## `workload`",
        "What a call is.",
        table(("workload", "a call is"), [(code(one.name), one.about) for one in _presets("workload")]),
        "## `measure`",
        "How long and how precisely to measure. Each is a key too: `measure.seconds_per_arm=2`.",
        _measure_table(),
        "## `study`",
        "A study is a multirun by itself: `gqabench sweep study=kv_heads`.",
        table(("study", "what it shows", "axes"), map(_study_row, _presets("study"))),
        "## `model`",
        "The attention of one layer of a model.",
        table(_MODEL_HEADINGS, map(_model_row, _presets("model"))),
    ]
    return page("Keys", "Every key of `gqabench sweep`: its type, its default, its meaning.", *parts)


_MODEL_HEADINGS = ("model", "query heads", "KV heads", "width", "layers", "window", "source")
_MODEL_KEYS = ("num_q_heads", "num_kv_heads", "head_dim", "num_layers", "window")


def _key_rows(chosen: dict[str, str | None], defaults: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the axes of the problem, in a record's order, then the keys of the run."""
    keys = [(key, column.type.text, column.about) for key, column in COLUMNS.items() if key in AXES]
    keys += [(key.name, _type_text(key.type), key.about) for key in own_keys(RunConfig)]
    return [(code(key), kind, _default_text(key, chosen, defaults), about) for key, kind, about in keys]


def _type_text(annotation: str) -> str:
    """Return an annotation in a reader's words."""
    words = {"Any": "any", "MeasureConfig": "preset"}
    return words.get(annotation, annotation.replace(" | None", " or null"))


def _default_text(key: str, chosen: dict[str, str | None], defaults: dict[str, Any]) -> str:
    """Return a key's default, and the preset that it comes from."""
    if key in chosen:
        return code(chosen[key])
    value = "" if isinstance(defaults[key], list) else code(defaults[key])
    for group in ("model", "workload", "impl_set"):
        name = chosen[group]
        if name and key in read_preset(group, name).values:
            return f"{value} by `{group}={name}`".strip()
    return value


def _measure_table() -> str:
    efforts = _presets("measure")
    rows = [
        (code(f"measure.{key.name}"), key.about, *(code(effort.values[key.name]) for effort in efforts))
        for key in own_keys(MeasureConfig)
        if key.name != "name"
    ]
    return table(("key", "meaning", *(code(effort.name) for effort in efforts)), rows)


def _study_row(preset: Preset) -> tuple[str, ...]:
    axes = preset.values["hydra"]["sweeper"]["params"]
    return code(preset.name), preset.about, " ".join(code(f"{key}={values}") for key, values in axes.items())


def _model_row(preset: Preset) -> tuple[str, ...]:
    return code(preset.name), *(str(preset.values.get(key, "")) for key in _MODEL_KEYS), preset.about


def _presets(group: str) -> list[Preset]:
    return [read_preset(group, name) for name in list_presets(group)]


def _chosen_presets() -> dict[str, str | None]:
    """Return the default preset of each group, as `conf/sweep.yaml` lists them."""
    entries = cast(DictConfig, OmegaConf.load(CONF_FOLDER / "sweep.yaml")).defaults
    groups = {
        str(group): name for one in entries if isinstance(one, DictConfig) for group, name in one.items()
    }
    return {group: name for group, name in groups.items() if not group.startswith("override ")}


def _default_values() -> dict[str, Any]:
    """Return the values of a sweep for which no key is given."""
    register_keys()
    with initialize_config_module("gqabench.conf", version_base="1.3"):
        return cast(dict[str, Any], OmegaConf.to_container(compose("sweep")))
