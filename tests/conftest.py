from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
SIMULATED_GPU = TESTS / "simulated_gpu"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped where PyTorch finds no CUDA device."""
    of_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not of_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in of_gpu:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


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
        [c_compiler, "-shared", "-fPIC", "-o", nvml, TESTS / "harness" / "fake_nvml" / "nvml.c", "-lm"],
    ):  # fmt: skip
        subprocess.run(command, check=True, timeout=120)
    libraries = filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")])
    return {
        "SIMULATED_GPU": str(guard),
        "PYTHONPATH": str(SIMULATED_GPU),
        "LD_LIBRARY_PATH": ":".join(libraries),
        "GQABENCH_CACHE_DIR": str(folder / "cache"),
    }
