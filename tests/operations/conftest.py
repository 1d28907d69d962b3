from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.forked_command import ForkedCommand
from tests.operations import forked_scripts

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def script_environment(simulated_gpu: dict[str, str]) -> dict[str, str]:
    """Variables of a process that finds a simulated GPU and this checkout."""
    path = f"{simulated_gpu['PYTHONPATH']}:{PROJECT}"
    return os.environ | {"OMP_NUM_THREADS": "1"} | simulated_gpu | {"PYTHONPATH": path}


@pytest.fixture(scope="session")
def python(script_environment: dict[str, str]) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Runs `python SCRIPT` or `python -c TEXT` on a simulated GPU, forked with what scripts import."""
    command = ForkedCommand(script_environment, forked_scripts.__file__)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return command.call(Path.cwd(), list(map(str, arguments)), script_environment, timeout=900)

    yield run
    command.close()
