from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from attention_impls import list_impls

PROJECT = Path(__file__).resolve().parents[2]

Finished = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def gqabench_in() -> Callable[..., Finished]:
    """Runs the command line as a user does, in a given folder."""

    def run(folder: Path, *arguments: str, timeout: float = 300, **variables: str) -> Finished:
        return subprocess.run(
            [
                sys.executable,
                "-P",
                "-c",
                "import sys; from harness.cli import main; sys.exit(main())",
                *arguments,
            ],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"} | variables,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def gqabench(gqabench_in: Callable[..., Finished], tmp_path: Path) -> Callable[..., Finished]:
    """Runs the command line in a folder of the test's own."""
    return partial(gqabench_in, tmp_path)


@pytest.fixture
def host() -> dict[str, object]:
    """What a worker on a machine without a GPU says of itself."""
    return {
        "libraries": {"torch": "2.13.0"},
        "impls": list_impls(),
        "cuda": None,
        "devices": [
            {"device": "cpu", "name": "some CPU", "uuid": None, "dtypes": ["float32", "float16", "bfloat16"]}
        ],
    }


@pytest.fixture
def gpu_host(host: dict[str, object]) -> dict[str, object]:
    """The same with one old GPU, which lacks bfloat16."""
    devices = host["devices"]
    assert isinstance(devices, list)
    gpu = {"device": "cuda:0", "name": "some GPU", "uuid": "GPU-0", "dtypes": ["float32", "float16"]}
    return host | {"cuda": "13.0", "devices": [*devices, gpu]}
