"""The Hydra sweeper: expands the axes, checks the whole plan before anything is measured, then launches.

Hydra's own sweeper composes every job twice and checks only types. This one composes once for each
choice of config groups, so that planning stays fast, and rejects a plan with a mistake before anything is
on disk.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ValidationError

from gqabench.harness.cases.case import Case, InvalidCase
from gqabench.harness.cases.plan import plan_case
from gqabench.harness.errors import UsageError
from gqabench.harness.sweep.job import job_process
from gqabench.harness.sweep.overrides import quoted
from gqabench.harness.sweep.run_setup import open_run
from gqabench.results import RunFolder


@dataclass
class SweepRequest:
    """What whoever asks for a sweep knows beyond the configuration, and what becomes of it."""

    command: str
    is_multirun: bool
    """Whether `-m` was given."""
    folder: RunFolder | None = None
    """Set once the run exists."""
    wants_report: bool = True
    """Set with `folder`, from the key `report`."""


@dataclass(frozen=True)
class Point:
    """One point of the sweep: its overrides, and the case that they describe."""

    overrides: tuple[str, ...]
    case: Case | InvalidCase
    config: DictConfig


class CaseSweeper(Sweeper):
    """Turns axes into cases and passes them to the configured launcher."""

    request: SweepRequest

    def __init__(self, params: dict[str, Any] | None = None, max_batch_size: int | None = None) -> None:
        self._params = params or {}
        self._max_batch_size = max_batch_size

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Plan, open the run, launch. Raises `UsageError` before anything is written."""
        assert self.hydra_context is not None and self.config is not None
        loader = self.hydra_context.config_loader
        parser = OverridesParser.create(config_loader=loader)
        given = parser.parse_overrides(arguments)
        if not self.request.is_multirun and self.config.study is None:
            _require_single_values(given)
        axes = expand_axes([*parser.parse_overrides(self._study_axes()), *given])
        points = plan_points(loader, self.config, axes)
        require_some_case(points)
        self.request.wants_report = points[0].config.report
        self.request.folder = open_run(
            points[0].config, [point.case for point in points], self.request.command
        )
        run_override = f"hydra.sweep.dir={quoted(str(self.request.folder.path.resolve()))}"
        jobs = [[*point.overrides, run_override] for point in points]
        returns = []
        for start in range(0, len(jobs), self._max_batch_size or len(jobs)):
            batch = jobs[start : start + (self._max_batch_size or len(jobs))]
            finished = self.launcher.launch(batch, initial_job_idx=start)
            _ = [job.return_value for job in finished]  # re-raises the error of a job
            returns.append(finished)
        return returns

    def _study_axes(self) -> list[str]:
        return [f"{key}={value}" for key, value in self._params.items()]


def expand_axes(overrides: Sequence[Override]) -> list[tuple[str, ...]]:
    """Return the points of a sweep, first axis slowest. A key's later override replaces its earlier one.

    Raises `UsageError` for an axis that is not a list of values.
    """
    axes: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            axes[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            axes[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            assert override.value_type is not None
            raise UsageError(f"{override.input_line}: a sweep needs a list of values, such as 1,2,4")
    return list(itertools.product(*axes.values()))


def plan_points(loader: ConfigLoader, master: DictConfig, points: Sequence[tuple[str, ...]]) -> list[Point]:
    """Compose and plan every point. Raises `UsageError` at the first value that can never be valid."""
    process = job_process()
    folder = Path.cwd()
    composer = PointComposer(loader, master)
    planned = []
    for overrides in points:
        config = composer.compose(overrides)
        planned.append(Point(overrides, plan_case(config, process.hosts(config, folder), folder), config))
    return planned


class PointComposer:
    """Composes points, reusing the composition of those that choose the same config groups."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader = loader
        self._master = master
        self._pickled: dict[tuple[str, ...], bytes] = {}
        """By choice of groups, since a load takes an eighth of a deep copy's time"""
        self._is_plain_key: dict[str, bool] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Compose the job's configuration, without Hydra's own section."""
        plain = [override for override in overrides if self._is_plain(override)]
        choice = tuple(override for override in overrides if not self._is_plain(override))
        if choice not in self._pickled:
            # The plain overrides are composed too, so that Hydra checks keys and types of the first point.
            composed = self._loader.load_sweep_config(self._master, [*overrides])
            with open_dict(composed):
                del composed["hydra"]
            self._pickled[choice] = pickle.dumps(composed)
        config: DictConfig = pickle.loads(self._pickled[choice])
        for override in plain:
            key, _, value = override.partition("=")
            try:
                OmegaConf.update(config, key, _parse_plain(value))
            except ValidationError as error:
                raise HydraException(f"Error merging override {override}") from error
        return config

    def _is_plain(self, override: str) -> bool:
        """Return whether an override only sets a key: no config group, nothing added or deleted."""
        key, _, value = override.partition("=")
        if key not in self._is_plain_key:
            is_group = bool(self._loader.get_group_options(key.partition("@")[0]))
            is_name = key.replace(".", "").replace("_", "").isalnum()
            self._is_plain_key[key] = is_name and not is_group and not key.startswith("hydra.")
        return self._is_plain_key[key] and _is_scalar(value)


def require_some_case(points: Sequence[Point]) -> None:
    """Raise `UsageError` if no point of a sweep is a valid problem: that is a mistake, not a result."""
    reasons = [point.case.reason for point in points if isinstance(point.case, InvalidCase)]
    if len(reasons) == len(points):
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise UsageError(f"{reasons[0]}{more}")


def _require_single_values(overrides: Sequence[Override]) -> None:
    for override in overrides:
        if override.is_sweep_override():
            raise UsageError(f"{override.input_line}: several values need -m, or a study")


def _is_scalar(value: str) -> bool:
    """Return whether YAML and Hydra read a value alike: numbers, plain words, null, true and false."""
    return value.replace(".", "", 1).replace("-", "", 1).replace("_", "").isalnum()


def _parse_plain(value: str) -> Any:
    for convert in (int, float):
        try:
            return convert(value)
        except ValueError:
            continue
    return {"null": None, "true": True, "false": False}.get(value.lower(), value)
