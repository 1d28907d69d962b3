"""The YAML files beside this module, read as plain values: for listings, without composing anything."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONF_FOLDER = Path(__file__).resolve().parent

PRESET_GROUPS = ("impl_set", "measure", "model", "study", "workload")


@dataclass(frozen=True)
class Preset:
    """One YAML file of a config group."""

    name: str
    about: str
    """The comment lines at the top of the file: what it is, and its source."""
    values: dict[str, Any]


def list_presets(group: str) -> list[str]:
    """Return names of a group's presets, in alphabetical order."""
    return sorted(path.stem for path in (CONF_FOLDER / group).glob("*.yaml"))


def read_preset(group: str, name: str) -> Preset:
    """Return one preset's own values. Raises `FileNotFoundError` when there is none of that name."""
    import yaml

    text = (CONF_FOLDER / group / f"{name}.yaml").read_text(encoding="utf-8")
    comments = [match.group(1) for match in re.finditer(r"^# (?!@package)(.*)$", text, re.MULTILINE)]
    return Preset(name=name, about=" ".join(comments), values=yaml.safe_load(text) or {})
