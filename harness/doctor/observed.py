"""The facts that the checks look at. A fact that is None was not seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Neighbour:
    """A process that is not ours."""

    name: str
    pid: int
    num_cores: float
    """Cores that it kept busy, on average."""


@dataclass(frozen=True)
class Load:
    """What others did on this machine during a sample."""

    num_busy_cores: float
    steal_share: float
    """Of the time of all cores, what the hypervisor gave to other guests."""
    swapped_bytes: int
    neighbours: tuple[Neighbour, ...] = ()
    """Busiest first. Containers hide processes, not the cores that they keep busy."""


@dataclass(frozen=True)
class Observed:
    """The facts that the checks look at."""

    machine: dict[str, Any]
    """See `gqabench.harness.machine.description.describe_machine`."""
    num_cores: int
    num_usable_cores: int
    load: Load
    available_bytes: int
    swap_used_bytes: int
    is_on_battery: bool | None
    compiler: str | None
    results_dir: Path
    disk_free_bytes: int | None
    """None where nothing can be written."""
    has_nvidia_gpu: bool
    gpu_memory_bytes: Mapping[str, int]
    """By name of device: what is in use, our worker's share apart."""
    gpu_busy_shares: Mapping[str, float]
    """By name of device: the share of the time in which kernels ran while our worker was idle."""
