"""Parses the arms that a sweep's `impls` names.

An arm is `impl`, `path/to/file.py:Class`, two of them joined by `+`, or any of these after `environment:`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gqabench.attention_impls.prefill_decode_pair import parts_of
from gqabench.harness.cases.case import GENERATE_WORKLOAD, Arm
from gqabench.harness.errors import UsageError
from gqabench.harness.machine.host import HostDescription
from gqabench.harness.workers.environments import CURRENT_ENVIRONMENT

_WITH_ENVIRONMENT = re.compile(r"([A-Za-z0-9_-]+):(.+)")
_IN_A_FILE = re.compile(r"(.+\.py):([^:/]+)")


def read_arms(value: Any, environments: Collection[str], folder: Path) -> tuple[Arm, ...]:
    """Parse a configuration's key `impls` into arms. Paths are relative to `folder`.

    Raises `UsageError` for what is not a list of names, an arm named twice, an unknown environment, and a
    file that does not exist.
    """
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UsageError(f"impls={value}: must be a list of implementation names, such as [sdpa,repeat_kv]")
    arms = tuple(_read_arm(name, environments, folder) for name in names)
    if repeated := sorted({arm.label for arm in arms if arms.count(arm) > 1}):
        raise UsageError(f"impls={value}: names {', '.join(repeated)} twice")
    return arms


def require_known_impls(arms: Collection[Arm], hosts: Mapping[str, HostDescription]) -> None:
    """Raise `UsageError` for a name that is not among the impls that its environment's worker lists."""
    for arm in arms:
        if arm.environment in hosts:
            known = hosts[arm.environment].impls
            files = arm.files or (None,) * len(arm.parts)
            if any(file is None and part not in known for part, file in zip(arm.parts, files, strict=True)):
                raise UsageError(
                    f"impls={arm.label}: unknown; valid: {', '.join(known)}, or path/to/file.py:ClassName"
                )


def require_no_pairs(arms: Collection[Arm], workload: str) -> None:
    """Raise `UsageError` for a pair `PREFILL+DECODE` in a workload whose call has one implementation."""
    pairs = [arm.label for arm in arms if len(arm.parts) == 2]
    if pairs and workload != GENERATE_WORKLOAD:
        raise UsageError(f"impls={pairs[0]}: a pair PREFILL+DECODE needs workload=generate")


def _read_arm(name: str, environments: Collection[str], folder: Path) -> Arm:
    environment, impl = CURRENT_ENVIRONMENT, name
    if match := _WITH_ENVIRONMENT.fullmatch(name):
        environment, impl = match.groups()
        if environment not in environments:
            raise UsageError(
                f"impls={name}: unknown environment {environment}; valid: {', '.join(environments)};"
                f" add it with environments.{environment}.python=PATH"
            )
    parts = parts_of(impl)
    match = _IN_A_FILE.fullmatch(impl)
    if match and match[2].isidentifier() and _file(match[1], folder).is_file():
        parts = [impl]  # a `+` in the path of an existing file separates nothing
    files = tuple(_file_of(part, name, folder) for part in parts)
    return Arm(impl, environment, files if any(files) else ())


def _file_of(part: str, name: str, folder: Path) -> Path | None:
    """Return the file of an implementation, or None for a listed name.

    Raises `UsageError`, which names the whole arm.
    """
    match = _IN_A_FILE.fullmatch(part)
    if match is None:
        return None
    file = _file(match[1], folder)
    if not file.is_file():
        raise UsageError(f"impls={name}: no file {file}")
    if not match[2].isidentifier():
        raise UsageError(f"impls={name}: {match[2]} is not a class name; valid: path/to/file.py:ClassName")
    return file


def _file(path: str, folder: Path) -> Path:
    return (folder / Path(path).expanduser()).resolve()
