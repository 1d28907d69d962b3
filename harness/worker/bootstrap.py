"""What an environment's interpreter is given to run: it finds this project's packages and becomes the worker.

    python bootstrap.py PARENT_PID SOURCE_ROOT

The packages come from the folder SOURCE_ROOT, whatever the interpreter has installed, and nothing else does:
with gqabench installed that folder is a `site-packages`, whose torch must not stand in for the interpreter's
own. It has to be read by any Python 3, also one that is too old, so that it can say so.
"""

import json
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from runpy import run_module

_OLDEST_PYTHON = (3, 11)
_NEEDED = ("torch", "numpy")
_PACKAGES = ("attention_impls", "conf", "harness", "results")


class ProjectFinder:
    """Finds this project's top-level packages in one folder, before any other finder is asked."""

    def __init__(self, source_root: str) -> None:
        self._source_root = source_root

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        return PathFinder.find_spec(name, [self._source_root]) if name in _PACKAGES else None


def complaint() -> str:
    """Why this interpreter cannot serve; empty when it can."""
    if sys.version_info < _OLDEST_PYTHON:
        return "it is Python %d.%d; gqabench needs 3.11 or newer" % sys.version_info[:2]  # noqa: UP031
    missing = [name for name in _NEEDED if find_spec(name) is None]
    return "it has no " + " and no ".join(missing) if missing else ""


def main() -> None:
    del sys.path[0]  # the folder of this file
    parent_pid, source_root = sys.argv[1:]
    reason = complaint()
    if reason:
        print(
            json.dumps({"ok": False, "outcome": "error", "reason": reason, "is_unusable": True}), flush=True
        )
        sys.exit(1)
    sys.meta_path.insert(0, ProjectFinder(source_root))  # type: ignore[arg-type]  # a duck, as the protocol says
    sys.argv = ["harness.worker", parent_pid]
    run_module("harness.worker", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
