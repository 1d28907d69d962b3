"""NVML through the `pynvml` bindings: what the driver answers, in units that their names say."""

from __future__ import annotations

import warnings
from typing import Any

from gqabench.harness.machine.nvml.calls import DriverCalls, Refusal
from gqabench.harness.machine.nvml.interface import DeviceMemory, ListedDevice, NullNvml, Nvml, Utilisation

CLOCK_REASONS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}
"""Bits of `nvmlClocksEventReasons`; the last two are only in the older `nvmlClocksThrottleReasons`."""

_COMPUTE_MODES = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}
"""Of `nvmlComputeMode_t`."""

_VALUE_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Members of the union `nvmlValue_t`, in the order of `nvmlValueType_t`."""

_POWER_INSTANT_FIELD = 186
"""`NVML_FI_DEV_POWER_INSTANT`. What `nvmlDeviceGetPowerUsage` tells is an average of the last second."""


class PynvmlNvml:
    """NVML through initialised bindings. Usable from several threads."""

    def __init__(self, bindings: Any) -> None:
        self._nvml = bindings
        self._driver = DriverCalls(bindings)

    def list_devices(self) -> list[ListedDevice]:
        try:
            count = self._driver.call("nvmlDeviceGetCount")
            handles = [self._driver.call("nvmlDeviceGetHandleByIndex", index) for index in range(count)]
            return [self._listed(handle) for handle in handles]
        except Refusal as refusal:
            self._driver.warn("the list of GPUs", refusal)
            return []

    def memory(self, uuid: str) -> DeviceMemory | None:
        function = "nvmlDeviceGetMemoryInfo"
        # Only version 2 keeps apart what the driver reserves.
        told = self._driver.first(uuid, (function, getattr(self._nvml, "nvmlMemory_v2", None)), (function,))
        if told is None:
            return None
        return DeviceMemory(
            total_bytes=told.total,
            used_bytes=told.used,
            free_bytes=told.free,
            reserved_bytes=getattr(told, "reserved", None),
        )

    def device_memory_bytes(self, uuid: str) -> int | None:
        memory = self.memory(uuid)
        return None if memory is None else memory.used_bytes

    def processes(self, uuid: str) -> dict[int, int | None] | None:
        compute = self._processes(uuid, "Compute")
        graphics = self._processes(uuid, "Graphics")
        if compute is None:
            return graphics
        merged = dict(compute)
        for pid, num_bytes in (graphics or {}).items():
            # A process with contexts of both kinds is in both lists, each time with all its memory.
            known = [value for value in (merged.get(pid), num_bytes) if value is not None]
            merged[pid] = max(known, default=None)
        return merged

    def process_memory_bytes(self, uuid: str, pid: int) -> int | None:
        return (self.processes(uuid) or {}).get(pid)

    def energy_j(self, uuid: str) -> float | None:
        return _thousandth(self._driver.ask_board(uuid, "nvmlDeviceGetTotalEnergyConsumption"))

    def power_w(self, uuid: str) -> float | None:
        return _thousandth(self._field(uuid, _POWER_INSTANT_FIELD))

    def sm_clock_mhz(self, uuid: str) -> int | None:
        return _int(self._driver.ask_board(uuid, "nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM))

    def memory_clock_mhz(self, uuid: str) -> int | None:
        return _int(self._driver.ask_board(uuid, "nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_MEM))

    def clock_reasons(self, uuid: str) -> tuple[str, ...] | None:
        bits = self._driver.first(
            uuid,
            ("nvmlDeviceGetCurrentClocksEventReasons",),
            ("nvmlDeviceGetCurrentClocksThrottleReasons",),  # its name before driver 535
            of_board=True,
        )
        return None if bits is None else reason_names(bits)

    def temperature_c(self, uuid: str) -> int | None:
        sensor = self._nvml.NVML_TEMPERATURE_GPU
        # The second is deprecated, and all that older drivers have.
        questions = ("nvmlDeviceGetTemperatureV", sensor), ("nvmlDeviceGetTemperature", sensor)
        return _int(self._driver.first(uuid, *questions, of_board=True))

    def utilisation(self, uuid: str) -> Utilisation | None:
        percent = self._driver.ask(uuid, "nvmlDeviceGetUtilizationRates")
        return None if percent is None else Utilisation(percent.gpu / 100, percent.memory / 100)

    def describe(self, uuid: str) -> dict[str, Any]:
        ask, ask_board = self._driver.ask, self._driver.ask_board
        memory, reasons = self.memory(uuid), self.clock_reasons(uuid)
        sm, memory_clock = self._nvml.NVML_CLOCK_SM, self._nvml.NVML_CLOCK_MEM
        cuda_version = self._driver.first(
            None, ("nvmlSystemGetCudaDriverVersion_v2",), ("nvmlSystemGetCudaDriverVersion",)
        )
        facts = {
            "name": ask(uuid, "nvmlDeviceGetName"),
            "driver": self._driver.first(None, ("nvmlSystemGetDriverVersion",)),
            "cuda_driver": None if cuda_version is None else _cuda_version_text(cuda_version),
            "vbios": ask_board(uuid, "nvmlDeviceGetVbiosVersion"),
            "total_memory_bytes": None if memory is None else memory.total_bytes,
            "reserved_memory_bytes": None if memory is None else memory.reserved_bytes,
            "sm_clock_mhz": self.sm_clock_mhz(uuid),
            "max_sm_clock_mhz": ask_board(uuid, "nvmlDeviceGetMaxClockInfo", sm),
            "memory_clock_mhz": self.memory_clock_mhz(uuid),
            "max_memory_clock_mhz": ask_board(uuid, "nvmlDeviceGetMaxClockInfo", memory_clock),
            "throttle_reasons": None if reasons is None else list(reasons),
            "power_w": self.power_w(uuid),
            "power_limit_w": _thousandth(ask_board(uuid, "nvmlDeviceGetEnforcedPowerLimit")),
            "default_power_limit_w": _thousandth(ask_board(uuid, "nvmlDeviceGetPowerManagementDefaultLimit")),
            "temperature_c": self.temperature_c(uuid),
            "ecc": _is_current(ask_board(uuid, "nvmlDeviceGetEccMode")),
            "mig_mode": _is_current(ask_board(uuid, "nvmlDeviceGetMigMode")),
            "persistence_mode": _bool(ask_board(uuid, "nvmlDeviceGetPersistenceMode")),
            "compute_mode": _COMPUTE_MODES.get(ask_board(uuid, "nvmlDeviceGetComputeMode")),
            "pcie_generation": ask_board(uuid, "nvmlDeviceGetCurrPcieLinkGeneration"),
            "max_pcie_generation": ask_board(uuid, "nvmlDeviceGetMaxPcieLinkGeneration"),
            "pcie_width": ask_board(uuid, "nvmlDeviceGetCurrPcieLinkWidth"),
            "max_pcie_width": ask_board(uuid, "nvmlDeviceGetMaxPcieLinkWidth"),
        }
        return {key: value for key, value in facts.items() if value is not None}

    def _listed(self, handle: Any) -> ListedDevice:
        call = self._driver.call
        uuid, name = call("nvmlDeviceGetUUID", handle), call("nvmlDeviceGetName", handle)
        if not _is_current(self._driver.ask(uuid, "nvmlDeviceGetMigMode")):
            return ListedDevice(uuid, name)
        slices = []
        for index in range(call("nvmlDeviceGetMaxMigDeviceCount", handle)):
            try:
                mig_handle = call("nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
            except Refusal as refusal:
                if refusal.code != self._nvml.NVML_ERROR_NOT_FOUND:  # a slot without a slice
                    raise
                continue
            slices.append(call("nvmlDeviceGetUUID", mig_handle))
        return ListedDevice(uuid, name, tuple(slices))

    def _processes(self, uuid: str, kind: str) -> dict[int, int | None] | None:
        function = f"nvmlDeviceGet{kind}RunningProcesses"
        entries = self._driver.first(uuid, (f"{function}_v3",), (f"{function}_v2",))
        if entries is None:
            return None
        processes: dict[int, int | None] = {}
        for entry in entries:  # a process that uses several MIG slices has an entry for each
            before = processes.get(entry.pid, 0)
            now = entry.usedGpuMemory
            processes[entry.pid] = None if before is None or now is None else before + int(now)
        return processes

    def _field(self, uuid: str, field: int) -> Any:
        values = self._driver.ask_board(uuid, "nvmlDeviceGetFieldValues", [field])
        if values is None:
            return None
        told = values[0]
        if told.nvmlReturn != self._nvml.NVML_SUCCESS:
            why = str(self._nvml.NVMLError(told.nvmlReturn))
            self._driver.note(uuid, Refusal(f"nvmlDeviceGetFieldValues, field {field}", told.nvmlReturn, why))
            return None
        return getattr(told.value, _VALUE_MEMBERS[told.valueType])


def reason_names(bits: int) -> tuple[str, ...]:
    """Return the names of the bits that are set, lowest first. A bit that has none yet gets its number."""
    set_bits = [1 << position for position in range(bits.bit_length()) if bits >> position & 1]
    return tuple(CLOCK_REASONS.get(bit, f"reason_{bit:#x}") for bit in set_bits)


def open_nvml() -> Nvml:
    """Open NVML if there is a driver, else the null twin. A driver that exists but fails warns once."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded) as error:
        return NullNvml(str(error))
    except pynvml.NVMLError as error:
        warnings.warn(f"NVML is not used: {error}", stacklevel=2)
        return NullNvml()
    return PynvmlNvml(pynvml)


def _int(value: Any) -> int | None:
    return None if value is None else int(value)


def _thousandth(value: Any) -> float | None:
    """Convert from mJ or mW."""
    return None if value is None else value / 1e3


def _is_current(mode: Any) -> bool | None:
    """Return a mode as it is now, from the pair of its present and pending states."""
    return None if mode is None else bool(mode[0])


def _bool(value: Any) -> bool | None:
    return None if value is None else bool(value)


def _cuda_version_text(number: int) -> str:
    """Format `13020` as 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"
