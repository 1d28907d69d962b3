"""Composes the cases that a sweep's keys describe, without launching anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from gqabench.harness.cases.case import Case, InvalidCase
from gqabench.harness.sweep.own_hydra import own_hydra
from gqabench.harness.sweep.sweeper import PointComposer, expand_axes, plan_points, require_some_case


def compose_cases(overrides: list[str]) -> list[Case | InvalidCase]:
    """Plan the cases of `gqabench sweep -m` with these overrides.

    Raises `UsageError`, or what Hydra raises for a mistake.
    """
    with _expanded(overrides) as (loader, master, points):
        planned = plan_points(loader, master, points)
    require_some_case(planned)
    return [point.case for point in planned]


def compose_values(overrides: list[str]) -> list[dict[str, Any]]:
    """Return the values of each point, without looking at the machine. Raises as `compose_cases` does."""
    with _expanded(overrides) as (loader, master, points):
        composer = PointComposer(loader, master)
        configs = [composer.compose(point) for point in points]
    return [OmegaConf.to_container(config, resolve=True) for config in configs]  # type: ignore[misc]


@contextmanager
def _expanded(overrides: list[str]) -> Iterator[tuple[ConfigLoader, DictConfig, list[tuple[str, ...]]]]:
    """Yield what composes the points of a sweep, and the overrides of each."""
    with own_hydra() as hydra:
        loader = hydra.config_loader
        parser = OverridesParser.create(config_loader=loader)
        given = parser.parse_overrides(overrides)
        master = loader.load_configuration("sweep", overrides=overrides, run_mode=RunMode.MULTIRUN)
        axes = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items()]
        yield loader, master, expand_axes([*parser.parse_overrides(axes), *given])
