"""Registers the sweeper with Hydra.

Hydra takes sweepers only from the namespace package `hydra_plugins`, and looks them up by name. Shipping a
folder of that name would split this project in two places, so the module is created here, in memory.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from hydra.core.plugins import Plugins

from gqabench.harness.sweep.sweeper import CaseSweeper, SweepRequest

NAMESPACE = "hydra_plugins"
MODULE = f"{NAMESPACE}.gqabench"
"""`conf/sweep.yaml` names `CaseSweeper` in this module."""


def register_sweeper(request: SweepRequest) -> None:
    """Let Hydra find `CaseSweeper`, bound to one request."""
    bound = type(CaseSweeper.__name__, (CaseSweeper,), {"request": request, "__module__": MODULE})
    module = ModuleType(MODULE)
    setattr(module, bound.__name__, bound)
    sys.modules[MODULE] = module
    setattr(_namespace(), MODULE.rpartition(".")[2], module)
    Plugins.instance().register(bound)


def _namespace() -> ModuleType:
    """Return the namespace of other installed plugins, or create an empty one."""
    try:
        return importlib.import_module(NAMESPACE)
    except ModuleNotFoundError:
        namespace = ModuleType(NAMESPACE)
        namespace.__path__ = []
        sys.modules[NAMESPACE] = namespace
        return namespace
