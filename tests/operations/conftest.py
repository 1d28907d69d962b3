from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.harness.forked_command import ForkedCommand, Started
from tests.operations import forked_scripts

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def start_python(simulated_gpu: dict[str, str]) -> Iterator[Callable[[Sequence[object]], Started]]:
    """Starts `python SCRIPT` or `python -c TEXT` on a simulated GPU, forked with what scripts import."""
    path = f"{simulated_gpu['PYTHONPATH']}:{PROJECT}"
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | simulated_gpu | {"PYTHONPATH": path}
    command = ForkedCommand(environment, forked_scripts.__file__)
    yield lambda arguments: command.start(Path.cwd(), list(map(str, arguments)), environment)
    command.close()


@pytest.fixture(scope="session")
def python(
    start_python: Callable[[Sequence[object]], Started],
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs it to its end."""
    return lambda *arguments: start_python(arguments).finish(timeout=900)
