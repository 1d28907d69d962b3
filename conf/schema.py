"""The types of a sweep's keys. YAML beside this file holds the values, `harness/cases/` their meaning.

The keys of the problem are not spelled here: `sweep_config` takes them from the table of axes, which the
harness hands over (`gqabench.harness.cases.keys`). The classes are inert and mutable, as Hydra's structured
configs must be.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import MISSING as UNSET
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, get_type_hints

from omegaconf import MISSING

_ABOUT = "about"


def _key(about: str, default: Any = MISSING) -> Any:
    """Declare a key with what it is; without a default, one that YAML or the user gives."""
    if isinstance(default, type):
        return field(default_factory=default, metadata={_ABOUT: about})
    return field(default=default, metadata={_ABOUT: about})


@dataclass
class MeasureConfig:
    """How long and how precisely to measure."""

    name: str = _key("`smoke`, `standard`, `thorough`, or a name of the user's own.")
    target_interval: float = _key(
        "Stop when half the 95 % interval of every arm's median is below this share of it."
    )
    min_rounds: int = _key("Rounds that every arm of a case is measured in, regardless of the time budget.")
    min_samples: int = _key(
        "With fewer samples no interval counts as narrow, where an arm's share of the time allows as many.", 1
    )
    seconds_per_arm: float = _key(
        "Time budget of a case: this many seconds of measuring for each of its arms, which share it equally."
    )
    slice_ms: float = _key(
        "Calls of one arm in one round take at least this long together, flushing included."
    )
    unstable_interval: float = _key(
        "A latency is flagged `unstable` where half its 95 % interval exceeds this share of it.",
        0.05,
    )
    timeout_s: float = _key("An arm that answers nothing for so long is stopped; its row says `timeout`.")
    caches: list[str] = _key(
        "`cold`, `warm` or both: whether the last-level cache is flushed before each timed call."
    )
    roofs: bool = _key(
        "Whether the ceilings of the device are measured first, unless they were within the last week."
    )
    energy: bool = _key(
        "Whether calls are repeated for seconds to read their energy, where there is a counter."
    )
    max_check_gflop: float = _key(
        "The float64 reference of a case may cost this much; beyond it, sampled queries are checked."
    )
    huge_pages: bool = _key(
        "Whether a CPU's caches are moved to huge pages before timing, where the system can: small ones lie "
        "scattered, and where they lie moves latencies.",
        True,
    )


@dataclass
class RunConfig:
    """The keys of `gqabench sweep` that are no axes of the problem."""

    workload: str = _key("What a call does: a preset of `workload/`.")
    impls: Any = _key(
        "Implementation names in a list, or one name; `environment:name` for one in another environment."
    )
    environments: Any = _key(
        "By name: `python`, the path of an interpreter, or `source`, a checkout of gqabench, or both.", dict
    )
    device: str = _key("`auto`, `cpu`, `cuda` or `cuda:N`.")
    measure: MeasureConfig = _key("How long and how precisely: a preset of `measure/`.", MeasureConfig)
    study: str | None = _key("Name of the `study/` preset.", None)
    seed: int = _key("Seed of the inputs and of the order of rounds.")
    results_dir: str = _key("Folder of the runs.")
    resume: str | None = _key("A run's folder to resume, or `latest`.", None)
    report: bool = _key(
        "Whether `gqabench sweep` ends with a report; `gqabench report` writes it later.", True
    )


@dataclass(frozen=True)
class Key:
    """One key of a configuration."""

    name: str
    type: Any
    about: str
    default: Any = MISSING
    """`omegaconf.MISSING` where YAML or the user gives it."""


def own_keys(config: type) -> list[Key]:
    """Return the keys of `MeasureConfig` or `RunConfig`, for a listing."""
    return [
        Key(item.name, item.type, item.metadata[_ABOUT], None if item.default is UNSET else item.default)
        for item in fields(config)
    ]


def sweep_config(axes: Iterable[Key], module: str) -> type:
    """Return the schema of `gqabench sweep`: the axes of the problem, then the keys of `RunConfig`.

    `module` is where it stands as `SweepConfig`: launchers pickle configurations, which name their schema.
    """
    members: list[tuple[str, Any, Any]] = [
        (key.name, key.type, field(default=key.default, metadata={_ABOUT: key.about})) for key in axes
    ]
    hints = get_type_hints(RunConfig)
    members += [(item.name, hints[item.name], copy(item)) for item in fields(RunConfig)]
    config = make_dataclass("SweepConfig", members)
    config.__module__ = module
    return config


def register(config: type) -> None:
    """Make a schema known to Hydra under the name that `sweep.yaml` extends."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="sweep_schema", node=config)
