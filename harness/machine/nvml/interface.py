"""What the harness asks of the driver, and the twin that knows nothing."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class DeviceMemory:
    """Memory of a device, or of its slice, in bytes."""

    total_bytes: int
    used_bytes: int
    """By all processes."""
    free_bytes: int
    reserved_bytes: int | None
    """What the driver keeps to itself. None where the driver counts it as used."""


@dataclass(frozen=True)
class Utilisation:
    """Shares of the driver's last sampling period, of a sixth of a second to a second."""

    gpu: float
    """In which a kernel ran, however small."""
    memory: float
    """In which device memory was read or written."""


@dataclass(frozen=True)
class ListedDevice:
    """A GPU as the driver lists it."""

    uuid: str
    name: str
    mig_uuids: tuple[str, ...] | None = None
    """Slices of a GPU in MIG mode, which may be none; None when the mode is off."""


class Nvml(Protocol):
    """Questions to the driver. Devices are named by UUID, since CUDA numbers them differently.

    A UUID of a MIG slice (`MIG-...`) is answered for the slice where it has something of its own (memory,
    processes), and for its whole board otherwise (energy, power, clocks, temperature). None is unknown.
    """

    def list_devices(self) -> list[ListedDevice]:
        """Return all GPUs in order of PCI bus, hidden from CUDA or not; empty where some are not known."""
        ...

    def memory(self, uuid: str) -> DeviceMemory | None: ...

    def device_memory_bytes(self, uuid: str) -> int | None:
        """Return the memory in use on the device, by all processes."""
        ...

    def processes(self, uuid: str) -> dict[int, int | None] | None:
        """Return the processes with a context on the device, and their bytes.

        Process ids are those of the host. In a container the list may be empty, or of foreign numbers.
        """
        ...

    def process_memory_bytes(self, uuid: str, pid: int) -> int | None:
        """Return the memory of one process on the device; None in containers that hide it."""
        ...

    def energy_j(self, uuid: str) -> float | None:
        """Return the board's energy since the driver was loaded, updated about every 100 ms."""
        ...

    def power_w(self, uuid: str) -> float | None:
        """Return the present power of the board; None if the driver has only a trailing average."""
        ...

    def sm_clock_mhz(self, uuid: str) -> int | None: ...

    def memory_clock_mhz(self, uuid: str) -> int | None: ...

    def clock_reasons(self, uuid: str) -> tuple[str, ...] | None:
        """Return the names of what holds the clocks where they are now; empty when nothing does."""
        ...

    def temperature_c(self, uuid: str) -> int | None: ...

    def utilisation(self, uuid: str) -> Utilisation | None: ...

    def describe(self, uuid: str) -> dict[str, Any]:
        """Return facts for the description of a machine, units in their names; unknown ones are left out."""
        ...


class NullNvml:
    """No NVIDIA driver here: nothing is known.

    With a `cause` it warns once, when it is first asked about a device: that device exists for CUDA, and its
    memory, clocks and energy will be missing.
    """

    def __init__(self, cause: str | None = None) -> None:
        self._cause = cause

    def list_devices(self) -> list[ListedDevice]:
        return []

    def memory(self, uuid: str) -> DeviceMemory | None:
        self._warn(uuid)
        return None

    def device_memory_bytes(self, uuid: str) -> int | None:
        self._warn(uuid)
        return None

    def processes(self, uuid: str) -> dict[int, int | None] | None:
        self._warn(uuid)
        return None

    def process_memory_bytes(self, uuid: str, pid: int) -> int | None:
        self._warn(uuid)
        return None

    def energy_j(self, uuid: str) -> float | None:
        self._warn(uuid)
        return None

    def power_w(self, uuid: str) -> float | None:
        self._warn(uuid)
        return None

    def sm_clock_mhz(self, uuid: str) -> int | None:
        self._warn(uuid)
        return None

    def memory_clock_mhz(self, uuid: str) -> int | None:
        self._warn(uuid)
        return None

    def clock_reasons(self, uuid: str) -> tuple[str, ...] | None:
        self._warn(uuid)
        return None

    def temperature_c(self, uuid: str) -> int | None:
        self._warn(uuid)
        return None

    def utilisation(self, uuid: str) -> Utilisation | None:
        self._warn(uuid)
        return None

    def describe(self, uuid: str) -> dict[str, Any]:
        self._warn(uuid)
        return {}

    def _warn(self, uuid: str) -> None:
        if self._cause is not None:
            warnings.warn(f"NVML reports nothing about {uuid}: {self._cause}", stacklevel=3)
            self._cause = None
