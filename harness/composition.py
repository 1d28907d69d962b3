"""The cases that a sweep's keys describe, composed without launching anything."""

from __future__ import annotations

from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

import conf
from harness.case import Case, InvalidCase
from harness.sweeper import expand_axes, plan_points, require_some_case


def compose_cases(overrides: list[str]) -> list[Case | InvalidCase]:
    """As `gqabench sweep -m` plans them. Raises `UsageError`, or what Hydra raises for a mistake."""
    conf.register()
    with initialize_config_module("conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        parser = OverridesParser.create(config_loader=loader)
        given = parser.parse_overrides(overrides)
        master = loader.load_configuration("sweep", overrides=overrides, run_mode=RunMode.MULTIRUN)
        axes = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items()]
        points = plan_points(loader, master, expand_axes([*parser.parse_overrides(axes), *given]))
    require_some_case(points)
    return [point.case for point in points]
