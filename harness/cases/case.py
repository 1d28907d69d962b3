"""A case: one problem and the arms to measure on it. One Hydra job is one case. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gqabench.attention_impls import AttentionProblem
from gqabench.attention_impls.cost import (
    kv_cache_bytes,
    kv_cache_bytes_per_token,
    layer_bytes,
    layer_flops,
    train_bytes,
    train_flops,
)
from gqabench.attention_impls.cost import model_bytes as attention_bytes
from gqabench.attention_impls.cost import model_flops as attention_flops
from gqabench.attention_impls.models.llama.shape import LlamaShape
from gqabench.attention_impls.prefill_decode_pair import JOINED_BY, parts_of
from gqabench.harness.cases.counted_fields import counted_fields, problem_fields
from gqabench.harness.hashes import short_hash
from gqabench.harness.workers.environments import CURRENT_ENVIRONMENT
from gqabench.results.axes import AXES

CACHE_STATES = ("cold", "warm")
LAYER_WORKLOAD = "layer"
TRAIN_WORKLOAD = "train"
GENERATE_WORKLOAD = "generate"


@dataclass(frozen=True)
class Arm:
    """An implementation in an environment: what is compared."""

    impl: str
    """A name, `path/to/file.py:Class`, or a pair `PREFILL+DECODE` of them, as given in `impls`."""
    environment: str = CURRENT_ENVIRONMENT
    files: tuple[Path | None, ...] = ()
    """Absolute paths of the parts that are in files; None for a part that is not."""

    @property
    def label(self) -> str:
        """The arm as written in `impls`."""
        return self.impl if self.environment == CURRENT_ENVIRONMENT else f"{self.environment}:{self.impl}"

    @property
    def target(self) -> str:
        """The name that the environment's registry resolves."""
        if not self.files:
            return self.impl
        targets = (
            part if file is None else f"{file}:{part.rpartition(':')[2]}"
            for part, file in zip(self.parts, self.files, strict=True)
        )
        return JOINED_BY.join(targets)

    @property
    def parts(self) -> list[str]:
        """Its one implementation, or the two of a pair."""
        return [self.impl] if len(self.files) == 1 else parts_of(self.impl)


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """How long and how precisely to measure; the fields are those of `conf.MeasureConfig`."""

    name: str
    target_interval: float
    unstable_interval: float
    min_rounds: int
    min_samples: int
    seconds_per_arm: float
    slice_ms: float
    timeout_s: float
    caches: tuple[str, ...]
    roofs: bool
    energy: bool
    max_check_gflop: float
    huge_pages: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "caches", tuple(sorted(self.caches)))  # cold before warm
        for key, value in asdict(self).items():
            if key not in {"name", "caches", "roofs", "energy", "huge_pages"} and not 0 < value < math.inf:
                raise ValueError(f"measure.{key}={value}: must be positive and finite")
        if (
            not self.caches
            or len(set(self.caches)) < len(self.caches)
            or not set(self.caches) <= set(CACHE_STATES)
        ):
            raise ValueError(f"measure.caches={list(self.caches)}: must be [cold], [warm] or [cold,warm]")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One point of a sweep, checked."""

    problem: AttentionProblem
    workload: str
    model: str | None
    num_layers: int | None
    tp: int
    arms: tuple[Arm, ...]
    measure: MeasureSettings
    seed: int
    llama: LlamaShape | None = None
    """The model of `workload=generate`; None in all others"""

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream that a layer of this model reads: all ranks' query heads."""
        return self.tp * self.problem.num_q_heads * self.problem.head_dim

    @property
    def case_id(self) -> str:
        """A hash that is equal for the same problem, workload and model in every run."""
        return short_hash(
            {
                "problem": problem_fields(self.problem),
                "workload": self.workload,
                "model": self.model,
                "num_layers": self.num_layers,
                "hidden_size": self.hidden_size if self.workload == LAYER_WORKLOAD else None,
            }
            | ({} if self.llama is None else {"llama": asdict(self.llama)})
        )

    def to_open(self) -> dict[str, Any]:
        """Return what a worker needs to make the inputs and references, as plain values."""
        arguments = {
            "problem": problem_fields(self.problem),
            "workload": self.workload,
            "hidden_size": self.hidden_size,
            "seed": self.seed,
            "max_check_gflop": self.measure.max_check_gflop,
        }
        if not self.measure.huge_pages:
            arguments["huge_pages"] = False
        return arguments if self.llama is None else arguments | {"llama": asdict(self.llama)}

    def shape_fields(self) -> dict[str, Any]:
        """Return the record fields that describe what was asked for."""
        asked = {
            "model": self.model,
            "num_layers": self.num_layers,
            "tp": self.tp,
            **llama_fields(self.llama),
        }
        return {
            "workload": self.workload,
            "phase": self.problem.phase,
            "group_size": self.problem.group_size,
            **{key: asked[key] if key in asked else getattr(self.problem, key) for key in AXES},
            "device": self.problem.device,
            "seed": self.seed,
            "measure": self.measure.name,
        }

    def model_fields(self) -> dict[str, Any]:
        """Return the record fields that follow from formulas alone."""
        problem = self.problem
        per_token = kv_cache_bytes_per_token(problem)
        total = kv_cache_bytes(problem)
        num_bytes, flops = self._model_cost()
        layers = self.num_layers
        return {
            "kv_cache_bytes_model": total,
            "kv_cache_bytes_model_per_token": None if layers is None else layers * per_token,
            "kv_cache_bytes_model_all_layers": None if layers is None else layers * total,
            "model_bytes": num_bytes,
            "model_flops": flops,
        }

    def _model_cost(self) -> tuple[int, int]:
        """Return the bytes that one call must move at least, and its operations."""
        problem = self.problem
        if self.llama is not None:
            return self.llama.step_bytes(problem), self.llama.step_flops(problem)
        if self.workload == LAYER_WORKLOAD:
            return layer_bytes(problem, self.hidden_size), layer_flops(problem, self.hidden_size)
        if self.workload == TRAIN_WORKLOAD:
            return train_bytes(problem), train_flops(problem)
        return attention_bytes(problem), attention_flops(problem)


@dataclass(frozen=True, kw_only=True)
class InvalidCase:
    """A point of a sweep whose values are not valid together: its arms become `unsupported` rows."""

    reason: str
    arms: tuple[Arm, ...]
    fields: dict[str, Any]
    """The record fields of the shape as they were asked for."""

    @property
    def case_id(self) -> str:
        return short_hash(counted_fields(self.fields, {axis.key: axis.default for axis in AXES.values()}))

    def shape_fields(self) -> dict[str, Any]:
        """Return the record fields that describe what was asked for."""
        return self.fields


def llama_fields(llama: LlamaShape | None) -> dict[str, Any]:
    """Return the record fields of a model; null without one."""
    return {
        "model_layers": None if llama is None else llama.num_layers,
        "intermediate_size": None if llama is None else llama.intermediate_size,
        "hf_cache": None if llama is None else llama.hf_cache,
    }
