"""A Hydra of our own beside one that the calling program may have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hydra import initialize_config_module
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase

from gqabench.harness.cases.keys import register_keys

_STATES = (GlobalHydra, HydraConfig, JobRuntime, VersionBase)
"""What Hydra keeps of the application that runs: one instance each for the whole process."""


@contextmanager
def own_hydra() -> Iterator[Hydra]:
    """Yield a Hydra with our configuration; afterwards the process's own state of Hydra is what it was."""
    instances = Singleton._instances
    before: dict[type, Singleton] = {state: instances.pop(state) for state in _STATES if state in instances}
    try:
        register_keys()
        with initialize_config_module("gqabench.conf", job_name="gqabench", version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            yield hydra
    finally:
        for state in _STATES:
            instances.pop(state, None)
        instances.update(before)
