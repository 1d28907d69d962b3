"""Implementations in files that are not installed: `path/to/file.py:ClassName`. Imports no torch."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def is_in_a_file(name: str) -> bool:
    """Return whether a name is of the form `path/to/file.py:ClassName`."""
    file, _, class_name = name.rpartition(":")
    return file.endswith(".py") and class_name.isidentifier()


def split_name(name: str) -> tuple[Path, str]:
    """Split a name of that form into its file and its class; `~` is the user's home."""
    file, _, class_name = name.rpartition(":")
    return Path(file).expanduser(), class_name


def load_file(path: Path) -> ModuleType:
    """Import the file as a module, executed once. It may import modules beside it, at its top.

    The folder comes last in the search path: a file of the user's called `triton.py` must not replace the
    package for whichever implementation imports it next.
    """
    path = path.resolve()
    module_name = f"gqabench_file_{path.stem}_{abs(hash(path))}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    _make_siblings_importable(path.parent)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


_FOLDERS: list[str] = []
"""Folders of files that were loaded, the latest first: the tail of the search path."""


def _make_siblings_importable(folder: Path) -> None:
    """Make a folder's modules importable, and forget those of another folder with the same names.

    Modules that already imported them keep them: two folders may each have a `helpers.py` of their own.
    """
    text = str(folder)
    if text in _FOLDERS:
        _FOLDERS.remove(text)
    sys.path[:] = [entry for entry in sys.path if entry not in {text, *_FOLDERS}]
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if "." not in name and file is not None and _is_within(file, _FOLDERS) and _is_beside(name, folder):
            del sys.modules[name]
    _FOLDERS.insert(0, text)
    sys.path.extend(_FOLDERS)


def _is_within(file: str, folders: list[str]) -> bool:
    return any(str(Path(file).parent) in {folder, f"{folder}/{Path(file).parent.name}"} for folder in folders)


def _is_beside(name: str, folder: Path) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()
