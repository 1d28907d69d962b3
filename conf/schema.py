"""The types of a sweep's keys. YAML beside this file holds the values, `harness/cases/` their meaning.

The classes are inert and mutable, as Hydra's structured configs must be.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class MeasureConfig:
    """How long and how precisely to measure."""

    name: str = MISSING
    """`smoke`, `standard`, `thorough`, or a name of the user's own."""
    target_interval: float = MISSING
    """Stop when half the 95 % interval of every arm's median is below this share of it."""
    min_rounds: int = MISSING
    """Rounds that every arm of a case is measured in, whatever they cost."""
    seconds_per_arm: float = MISSING
    """Time budget of a case: this many seconds of measuring for each of its arms."""
    slice_ms: float = MISSING
    """Calls of one arm in one round take about this long together; at least one call."""
    timeout_s: float = MISSING
    """An arm that answers nothing for so long is stopped; its row says `timeout`."""
    caches: list[str] = MISSING
    """`cold`, `warm` or both: whether the last-level cache is flushed before each timed call."""
    roofs: bool = MISSING
    """Whether the ceilings of the device are measured first, unless they were within the last week."""
    energy: bool = MISSING
    """Whether calls are repeated for seconds to read their energy, where there is a counter of it."""
    max_check_gflop: float = MISSING
    """The float64 reference of a case may cost this much; beyond it, sampled queries are checked."""


@dataclass
class SweepConfig:
    """The keys of `gqabench sweep`. None in a shape means that the user has to say it."""

    model: str | None = None
    """Name of the `model/` preset."""
    workload: str = MISSING
    batch_size: int = MISSING
    q_len: int | None = None
    kv_len: int = MISSING
    num_q_heads: int = MISSING
    num_kv_heads: int = MISSING
    head_dim: int = MISSING
    num_layers: int | None = None
    dtype: str = MISSING
    """`float32`, `float16`, `bfloat16`, or `auto`: bfloat16 on a GPU, float32 on a CPU."""
    kv_dtype: str | None = None
    window: int | None = None
    logits_soft_cap: float | None = None
    page_size: int | None = None
    tp: int = 1
    """Tensor-parallel ranks: one rank's heads are measured."""
    model_layers: int | None = None
    """`workload=generate`: layers of the model that are built; None means all of `num_layers`."""
    intermediate_size: int | None = None
    """`workload=generate`: width of the MLP; None means two thirds of four times the model's width."""
    hf_cache: str | None = None
    """`workload=generate`: Hugging Face's `dynamic` or `static` cache."""
    impls: Any = MISSING
    """List of implementation names, or one name; `environment:name` for one in another environment."""
    environments: Any = field(default_factory=dict)
    """By name: `python`, the path of an interpreter, or `source`, a checkout of gqabench, or both."""
    device: str = MISSING
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    study: str | None = None
    """Name of the `study/` preset."""
    seed: int = MISSING
    results_dir: str = MISSING
    resume: str | None = None
    """A run's folder to go on with, or `latest`."""


def register() -> None:
    """Make the schema known to Hydra under the name that `sweep.yaml` extends."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="sweep_schema", node=SweepConfig)
