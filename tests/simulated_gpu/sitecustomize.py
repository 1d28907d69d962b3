"""Run by every Python that has this folder in `PYTHONPATH`: an import of torch gets the simulated GPU."""

import os
import sys
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class WithSimulatedGpu(Loader):
    """Loads torch, and what is to be put into it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        from simulated_gpu import install

        install(os.environ["SIMULATED_GPU"])


class TorchFinder:
    """Finds torch where it is."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name) if name == "torch" else None
        if spec is not None and spec.loader is not None:
            spec.loader = WithSimulatedGpu(spec.loader)
        return spec


if "SIMULATED_GPU" in os.environ:
    sys.meta_path.insert(0, TorchFinder())  # type: ignore[arg-type]  # a duck, as the protocol says
