"""The one module that talks to NVML (package `nvidia-ml-py`), with a null twin for machines without it.

What NVML does not tell is None; it never raises to the caller.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Nvml(Protocol):
    """What the harness asks of the driver. Devices are named by UUID, as CUDA numbers them differently."""

    def device_memory_bytes(self, uuid: str) -> int | None:
        """Memory in use on the device, all processes."""
        ...

    def process_memory_bytes(self, uuid: str, pid: int) -> int | None:
        """Memory of one process on the device; None in containers that hide it."""
        ...

    def describe(self, uuid: str) -> dict[str, Any]:
        """Driver version, clocks (MHz), power limit (W), temperature (degrees C), ECC mode: what is known."""
        ...


class NullNvml:
    """No NVIDIA driver here: nothing is known."""

    def device_memory_bytes(self, uuid: str) -> int | None:
        return None

    def process_memory_bytes(self, uuid: str, pid: int) -> int | None:
        return None

    def describe(self, uuid: str) -> dict[str, Any]:
        return {}


class PynvmlNvml:
    """NVML through the `pynvml` bindings."""

    def __init__(self, bindings: Any) -> None:
        self._nvml = bindings
        self._handles: dict[str, Any] = {}

    def device_memory_bytes(self, uuid: str) -> int | None:
        memory = self._ask(lambda: self._nvml.nvmlDeviceGetMemoryInfo(self._handle(uuid)))
        return None if memory is None else int(memory.used)

    def process_memory_bytes(self, uuid: str, pid: int) -> int | None:
        processes = self._ask(lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle(uuid)))
        for process in processes or []:
            if process.pid == pid and process.usedGpuMemory is not None:
                return int(process.usedGpuMemory)
        return None

    def describe(self, uuid: str) -> dict[str, Any]:
        nvml, ask = self._nvml, self._ask
        power_limit_mw = ask(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(self._handle(uuid)))
        ecc = ask(lambda: nvml.nvmlDeviceGetEccMode(self._handle(uuid)))
        facts = {
            "driver": ask(nvml.nvmlSystemGetDriverVersion),
            "sm_clock_mhz": ask(lambda: nvml.nvmlDeviceGetClockInfo(self._handle(uuid), nvml.NVML_CLOCK_SM)),
            "memory_clock_mhz": ask(
                lambda: nvml.nvmlDeviceGetClockInfo(self._handle(uuid), nvml.NVML_CLOCK_MEM)
            ),
            "power_limit_w": None if power_limit_mw is None else power_limit_mw / 1e3,
            "temperature_c": ask(
                lambda: nvml.nvmlDeviceGetTemperature(self._handle(uuid), nvml.NVML_TEMPERATURE_GPU)
            ),
            "ecc": None if ecc is None else bool(ecc[0]),
        }
        return {key: value for key, value in facts.items() if value is not None}

    def _handle(self, uuid: str) -> Any:
        if uuid not in self._handles:
            self._handles[uuid] = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
        return self._handles[uuid]

    def _ask(self, question: Callable[[], T]) -> T | None:
        try:
            return question()
        except self._nvml.NVMLError:
            return None


def open_nvml() -> Nvml:
    """NVML where there is a driver, else the null twin. A driver that is there but fails warns once."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return NullNvml()
    except pynvml.NVMLError as error:
        warnings.warn(f"NVML is not used: {error}", stacklevel=2)
        return NullNvml()
    return PynvmlNvml(pynvml)
