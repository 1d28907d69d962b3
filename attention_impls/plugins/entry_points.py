"""Implementations that other packages offer, by entry point. Imports none of them, and no torch."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Any

ENTRY_POINT_GROUP = "gqabench.attention_impls"


class AmbiguousPlugin(Exception):
    """Two packages offer an implementation of the same name; the message names them."""


def plugin_names() -> list[str]:
    """Return the names of all plug-ins, in alphabetical order."""
    return sorted(_plugins())


def plugin_versions() -> dict[str, str]:
    """Return the packages, with their versions, that offer each plug-in."""
    return {name: " and ".join(map(_package, points)) for name, points in _plugins().items()}


def shadowed_plugins(taken: Collection[str]) -> dict[str, str]:
    """Return the unreachable plug-ins, whose names are `taken`, with their packages."""
    return {name: package for name, package in plugin_versions().items() if name in taken}


def load_plugin(name: str) -> Any:
    """Import the class of a plug-in. Raises `AmbiguousPlugin`, or whatever importing it raises."""
    points = _plugins()[name]
    if len(points) > 1:
        raise AmbiguousPlugin(f"offered by {' and by '.join(map(_package, points))}; uninstall all but one")
    return points[0].load()


def _plugins() -> dict[str, list[EntryPoint]]:
    plugins: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=_package):
        plugins.setdefault(point.name, []).append(point)
    return plugins


def _package(point: EntryPoint) -> str:
    return "an unnamed package" if point.dist is None else f"{point.dist.name} {point.dist.version}"
