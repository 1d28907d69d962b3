"""The README's commands are the ones that work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser

from gqabench import conf
from gqabench.attention_impls import list_impls
from gqabench.harness.cli.commands import COMMANDS, LISTINGS
from gqabench.harness.sweep.overrides import hydra_arguments
from gqabench.harness.sweep.sweeper import expand_axes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND_LINES = [line.strip() for line in README.splitlines() if line.startswith("    gqabench ")]
SWEEPS = [shlex.split(line)[2:] for line in COMMAND_LINES if line.startswith("gqabench sweep")]


def test_the_two_commands_stand_first_and_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    first, second = [line.split()[:2] for line in README.splitlines() if line.startswith("    ")][:2]
    assert (first, second) == (["make", "sweep"], ["make", "test"])
    assert all(f"\n{target}:" in makefile for target in ("sweep", "test"))


def test_every_command_exists() -> None:
    assert COMMAND_LINES
    assert {shlex.split(line)[1] for line in COMMAND_LINES} == set(COMMANDS)
    assert "gqabench list " + "|".join(LISTINGS) in README


@pytest.mark.parametrize("arguments", SWEEPS, ids=" ".join)
def test_every_sweep_composes(arguments: list[str]) -> None:
    conf.register()
    overrides = [argument for argument in hydra_arguments(arguments) if not argument.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(overrides)
    has_axes = any(override.is_sweep_override() for override in parsed)
    assert has_axes <= ("-m" in arguments or any(part.startswith("study=") for part in arguments))
    with initialize_config_module("gqabench.conf", version_base="1.3"):
        for point in expand_axes(parsed):
            config = compose("sweep", overrides=list(point))
            own_files = {impl for impl in config.impls if ".py:" in impl}
            prefixes = tuple(f"{name}:" for name in config.environments)
            names = {impl.split(":")[1] if impl.startswith(prefixes) else impl for impl in config.impls}
            assert names - own_files <= set(list_impls())


def test_every_implementation_is_described() -> None:
    assert set(list_impls()) <= set(re.findall(r"`(\w+)`", README))


def test_every_link_leads_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)", README)
    missing = [target for target in targets if not target.startswith("http") and not (ROOT / target).exists()]
    assert missing == []
