from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
SIMULATED_GPU = TESTS / "simulated_gpu"
FAKE_NVML = TESTS / "harness" / "machine" / "fake_nvml" / "nvml.c"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long tests first, and skip those marked `gpu` where PyTorch finds no CUDA device."""
    items[:] = dealt(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    of_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not of_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in of_gpu:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


def dealt(items: list[pytest.Item], num_processes: int) -> list[pytest.Item]:
    """Order tests for processes that each get a run of equal length, and take from another's end when done.

    Each run begins with some of the modules that start processes, whose tests take seconds, and ends with
    small tests: so that no process is left with a long one when the others are through.
    """
    modules = [list(group) for _, group in itertools.groupby(items, key=lambda item: item.path)]
    long = [module for module in modules if is_long(module[0].path)]
    short = [item for module in modules if not is_long(module[0].path) for item in module]
    runs = [list(itertools.chain.from_iterable(long[first::num_processes])) for first in range(num_processes)]
    for number, run in enumerate(runs):
        room = max(
            len(items) * (number + 1) // num_processes - len(items) * number // num_processes - len(run), 0
        )
        run += short[:room]
        del short[:room]
    return [*itertools.chain.from_iterable(runs), *short]


def is_long(path: Path) -> bool:
    """Return whether a module's tests start processes or compile."""
    folder, *rest = path.relative_to(TESTS).parts
    return not rest or folder in {"harness", "operations", "reports"} or path.name.startswith("test_triton")


@pytest.fixture(scope="session")
def simulated_gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of a process that is to find a GPU where there is none: `tests/simulated_gpu`."""
    compiler, c_compiler = shutil.which("g++"), shutil.which("gcc")
    if compiler is None or c_compiler is None:
        pytest.skip("there is no compiler to build the device with")
    folder = tmp_path_factory.mktemp("simulated_gpu")
    guard, nvml = folder / "device_guard.so", folder / "libnvidia-ml.so.1"
    torch_root = Path(find_spec("torch").origin).parent
    for command in (
        [
            compiler, "-std=c++20", "-shared", "-fPIC", f"-I{torch_root}/include", "-o", guard,
            SIMULATED_GPU / "device_guard.cpp", f"-L{torch_root}/lib", "-lc10",
        ],
        [c_compiler, "-shared", "-fPIC", "-o", nvml, FAKE_NVML, "-lm"],
    ):  # fmt: skip
        subprocess.run(command, check=True, timeout=120)
    libraries = filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")])
    return {
        "SIMULATED_GPU": str(guard),
        "PYTHONPATH": str(SIMULATED_GPU),
        "LD_LIBRARY_PATH": ":".join(libraries),
        "GQABENCH_CACHE_DIR": str(folder / "cache"),
    }
