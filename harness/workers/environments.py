"""Environments of arms: interpreters, their packages, and a version of this project. Imports no torch."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gqabench.harness.errors import UsageError
from gqabench.harness.machine.source import SOURCE_ROOT

CURRENT_ENVIRONMENT = "current"
"""The interpreter, packages and code that run the command itself."""

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_KEYS = ("python", "source")
_WORKER = Path("harness/worker/__main__.py")


class UnusableEnvironment(UsageError):
    """An interpreter that cannot serve as an environment; the message names its key, and what is missing."""


@dataclass(frozen=True)
class Environment:
    """An interpreter with its packages and a code version."""

    name: str
    python: str = sys.executable
    source_root: Path = SOURCE_ROOT

    @cached_property
    def variables(self) -> dict[str, str]:
        """The variables of its processes. Where this Python finds modules is no matter of another one."""
        if self.python == sys.executable:
            return dict(os.environ)
        return {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME"}}

    def unusable(self, reason: str) -> UnusableEnvironment:
        """Return the error to raise when its interpreter cannot serve."""
        return UnusableEnvironment(f"environments.{self.name}.python={self.python}: {reason}")


def read_environments(values: Mapping[str, Any] | None, folder: Path) -> dict[str, Environment]:
    """Read a configuration's key `environments`: environments by name, the current one first.

    Paths are relative to `folder`. Raises `UsageError` for what is no interpreter or no source of gqabench.
    """
    environments = {CURRENT_ENVIRONMENT: Environment(CURRENT_ENVIRONMENT)}
    if not isinstance(values or {}, Mapping):
        raise UsageError(f"environments={values}: valid: environments.NAME.python=PATH")
    for name, settings in (values or {}).items():
        environments[name] = _read_environment(str(name), settings, folder)
    return environments


def _read_environment(name: str, settings: Any, folder: Path) -> Environment:
    key = f"environments.{name}"
    if name == CURRENT_ENVIRONMENT:
        raise UsageError(f"{key}: is the environment that gqabench itself runs in; choose another name")
    if not _NAME.fullmatch(name):
        raise UsageError(f"{key}: a name has letters, digits, - and _ only")
    if not isinstance(settings, Mapping) or not settings.keys() <= set(_KEYS):
        raise UsageError(f"{key}={settings}: valid: {key}.python=PATH, {key}.source=PATH")
    python, source = (settings.get(name) for name in _KEYS)
    if python is None and source is None:
        raise UsageError(f"{key}: needs {key}.python=PATH, or {key}.source=PATH")
    return Environment(
        name,
        sys.executable if python is None else _interpreter(f"{key}.python", str(python), folder),
        SOURCE_ROOT if source is None else _source_root(f"{key}.source", str(source), folder),
    )


def _interpreter(key: str, python: str, folder: Path) -> str:
    """Return an absolute path without following links: a virtual environment is known by its link."""
    if os.sep not in python:
        found = shutil.which(python)
        if found is None:
            raise UsageError(f"{key}={python}: no such command; name an interpreter, such as venv/bin/python")
        return found
    path = folder.absolute() / Path(python).expanduser()
    if path.is_dir():
        raise UsageError(f"{key}={python}: is a folder; name its interpreter, such as {python}/bin/python")
    if not path.exists():
        raise UsageError(f"{key}={python}: no such file")
    if not os.access(path, os.X_OK):
        raise UsageError(f"{key}={python}: cannot be executed")
    return os.path.normpath(path)


def _source_root(key: str, source: str, folder: Path) -> Path:
    path = (folder / Path(source).expanduser()).resolve()
    if not (path / _WORKER).is_file():
        raise UsageError(f"{key}={source}: is not a checkout of gqabench: it has no {_WORKER}")
    return path
