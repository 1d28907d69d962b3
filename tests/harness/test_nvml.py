from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.nvml import NullNvml, PynvmlNvml, open_nvml


class FakeNvmlError(Exception):
    pass


class FakeBindings:
    """Just enough of `pynvml`; what is not set raises as a driver does that lacks a function."""

    NVMLError = FakeNvmlError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, **answers: Any) -> None:
        self._answers = answers

    def __getattr__(self, name: str) -> Any:
        def ask(*_: object) -> Any:
            if name not in self._answers:
                raise FakeNvmlError("Not Supported")
            return self._answers[name]

        return ask


def nvml_with(**answers: Any) -> PynvmlNvml:
    return PynvmlNvml(FakeBindings(nvmlDeviceGetHandleByUUID="handle", **answers))


def test_memory_of_the_device_and_of_one_process() -> None:
    nvml = nvml_with(
        nvmlDeviceGetMemoryInfo=SimpleNamespace(used=5 * 2**30),
        nvmlDeviceGetComputeRunningProcesses=[
            SimpleNamespace(pid=7, usedGpuMemory=2**20),
            SimpleNamespace(pid=8, usedGpuMemory=None),
        ],
    )
    assert nvml.device_memory_bytes("GPU-0") == 5 * 2**30
    assert nvml.process_memory_bytes("GPU-0", pid=7) == 2**20
    assert nvml.process_memory_bytes("GPU-0", pid=8) is None  # a container hides it
    assert nvml.process_memory_bytes("GPU-0", pid=9) is None


def test_what_the_driver_lacks_is_unknown() -> None:
    nvml = nvml_with()
    assert nvml.device_memory_bytes("GPU-0") is None
    assert nvml.process_memory_bytes("GPU-0", pid=7) is None
    assert nvml.describe("GPU-0") == {}


def test_the_description_has_units_and_leaves_out_what_is_unknown() -> None:
    nvml = nvml_with(
        nvmlDeviceGetEnforcedPowerLimit=700_000,
        nvmlSystemGetDriverVersion="580.1",
        nvmlDeviceGetEccMode=[1, 1],
    )
    assert nvml.describe("GPU-0") == {"power_limit_w": 700.0, "driver": "580.1", "ecc": True}


def test_without_a_driver_there_is_the_null_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    def no_library() -> None:
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(pynvml, "nvmlInit", no_library)
    nvml = open_nvml()
    assert isinstance(nvml, NullNvml)
    assert nvml.device_memory_bytes("GPU-0") is None
    assert nvml.describe("GPU-0") == {}


def test_a_driver_that_fails_warns_once_and_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    def lost() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    monkeypatch.setattr(pynvml, "nvmlInit", lost)
    with pytest.warns(UserWarning, match="NVML is not used"):
        assert isinstance(open_nvml(), NullNvml)
