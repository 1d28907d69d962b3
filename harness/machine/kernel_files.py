"""Files in which the kernel tells about a machine, and facts of which some are unknown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_fields(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the `name: value` lines of a file."""
    for line in (read_text(file) or "").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip(), value.strip()


def as_number(text: str | None) -> float | None:
    """Return the number that a text spells; None for anything else."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def without_unknown(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is unknown, at any depth of sections."""
    found = {key: _known_value(value) for key, value in values.items()}
    return {key: value for key, value in found.items() if value is not None and value != {}}


def _known_value(value: Any) -> Any:
    if isinstance(value, dict):
        return without_unknown(value)
    return [_known_value(item) for item in value] if isinstance(value, list) else value


def read_text(path: Path) -> str | None:
    """Return the stripped content of a file; None where it is empty or cannot be read."""
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
