from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from gqabench.attention_impls import list_impls
from gqabench.harness.machine.host import Device, HostDescription
from gqabench.harness.workers.protocol import PROTOCOL_VERSION
from tests.harness.forked_command import ForkedCommand, Started

PROJECT = Path(__file__).resolve().parents[2]
VARIABLES = dict(os.environ)
"""Before any test sets some, as importing parts of torch does: workers are forked with the same ones only."""

Finished = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def forked_command() -> Iterator[ForkedCommand]:
    command = ForkedCommand(_environment({}))
    yield command
    command.close()


@pytest.fixture(scope="session")
def start_gqabench_in(forked_command: ForkedCommand) -> Callable[..., Started]:
    """Starts the command line in a given folder; one at a time."""

    def start(folder: Path, *arguments: str) -> Started:
        return forked_command.start(folder, arguments, _environment({}))

    return start


@pytest.fixture(scope="session")
def gqabench_on_simulated_gpu(simulated_gpu: dict[str, str]) -> Iterator[Callable[..., Finished]]:
    """Runs the command line in a given folder, in a process that finds the simulated GPU."""
    environment = _environment(simulated_gpu)
    command = ForkedCommand(environment)  # with them from its start, when the loader of libraries reads them

    def run(folder: Path, *arguments: str, timeout: float = 300) -> Finished:
        return command.call(folder, arguments, environment, timeout)

    yield run
    command.close()


@pytest.fixture(scope="session")
def gqabench_in(request: pytest.FixtureRequest) -> Callable[..., Finished]:
    """Runs the command line as a user does, in a given folder: with variables, in a fresh interpreter."""

    def run(folder: Path, *arguments: str, timeout: float = 300, **variables: str) -> Finished:
        environment = _environment(variables)
        if not variables:
            command: ForkedCommand = request.getfixturevalue("forked_command")
            return command.call(folder, arguments, environment, timeout)
        program = "import sys; from gqabench.harness.cli import main; sys.exit(main())"
        return subprocess.run(
            [sys.executable, "-P", "-c", program, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


def _environment(variables: dict[str, str]) -> dict[str, str]:
    """This process's, with the project first on the path and one thread."""
    path = filter(None, [variables.get("PYTHONPATH"), str(PROJECT), VARIABLES.get("PYTHONPATH")])
    return VARIABLES | {"OMP_NUM_THREADS": "1"} | variables | {"PYTHONPATH": ":".join(path)}


@pytest.fixture
def gqabench(gqabench_in: Callable[..., Finished], tmp_path: Path) -> Callable[..., Finished]:
    """Runs the command line in a folder of the test's own."""
    return partial(gqabench_in, tmp_path)


@pytest.fixture
def host() -> HostDescription:
    """What a worker on a machine without a GPU says of itself."""
    return HostDescription(
        protocol_version=PROTOCOL_VERSION,
        python="3.11.7",
        num_threads=2,
        libraries={"torch": "2.13.0"},
        impls=list_impls(),
        devices=(
            Device(device="cpu", name="some CPU", uuid=None, dtypes=["float32", "float16", "bfloat16"]),
        ),
    )


@pytest.fixture
def gpu_host(host: HostDescription) -> HostDescription:
    """The same with one old GPU, which lacks bfloat16."""
    gpu = Device(device="cuda:0", name="some GPU", uuid="GPU-0", dtypes=["float32", "float16"])
    return replace(host, cuda="13.0", devices=(*host.devices, gpu))
