"""Optional packages: whether they are installed is asked without importing them."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version


def is_installed(module: str) -> bool:
    """Whether a top-level module can be imported; nothing is."""
    return importlib.util.find_spec(module) is not None


def package_reasons(module: str, extra: str) -> list[str]:
    """Why an implementation that needs a module of one of this project's extras cannot serve here."""
    if is_installed(module):
        return []
    return [f"the package {module} is not installed: pip install 'gqabench[{extra}]'"]


def package_version(distribution: str) -> str | None:
    """Version of an installed distribution; None where there is none of that name."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
