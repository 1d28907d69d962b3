"""What an environment's interpreter is given to run: it finds this project's packages and becomes the worker.

    python bootstrap.py PARENT_PID SOURCE_ROOT

The packages come from SOURCE_ROOT, whatever the interpreter has installed, and nothing else does: where
gqabench is installed, torch beside it must not stand in for the interpreter's own. Any Python 3 has to
be able to read this file, also one that is too old, so that it can say so.
"""

import json
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from runpy import run_module

_OLDEST_PYTHON = (3, 11)
_NEEDED = ("torch", "numpy")
_FOLDERS_OF_OLD = ("attention_impls", "conf", "harness", "results")
"""What a revision from before the name `gqabench` imports its own folders as."""


class ProjectFinder:
    """Finds this project's packages of one source, before any other finder is asked."""

    def __init__(self, folder: str, names: tuple[str, ...]) -> None:
        self._folder = folder
        self._names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        return PathFinder.find_spec(name, [self._folder]) if name in self._names else None


def locate(source_root: str) -> tuple[ProjectFinder, str]:
    """Return what finds the packages of a source, and the name of its worker.

    A source is a checkout, an installed `gqabench`, or a checkout from before there was that name.
    """
    for package in (Path(source_root, "gqabench"), Path(source_root)):
        if (package / "__init__.py").exists():
            return ProjectFinder(str(package.parent), ("gqabench",)), "gqabench.harness.worker"
    return ProjectFinder(source_root, _FOLDERS_OF_OLD), "harness.worker"


def complaint() -> str:
    """Return why this interpreter cannot serve; empty when it can."""
    if sys.version_info < _OLDEST_PYTHON:
        return "it is Python %d.%d; gqabench needs 3.11 or newer" % sys.version_info[:2]  # noqa: UP031
    missing = [name for name in _NEEDED if find_spec(name) is None]
    return "it has no " + " and no ".join(missing) if missing else ""


def main() -> None:
    """Find the packages of the source, then run its worker in this process."""
    del sys.path[0]  # the folder of this file
    parent_pid, source_root = sys.argv[1:]
    reason = complaint()
    if reason:
        print(
            json.dumps({"ok": False, "outcome": "error", "reason": reason, "is_unusable": True}), flush=True
        )
        sys.exit(1)
    finder, worker = locate(source_root)
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]  # a duck, as the protocol says
    sys.argv = [worker, parent_pid]
    run_module(worker, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
