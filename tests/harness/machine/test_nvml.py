from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from gqabench.harness.machine.nvml import NullNvml, PynvmlNvml, open_nvml
from gqabench.harness.machine.nvml.driver import CLOCK_REASONS, reason_names
from gqabench.results.flags import HARMLESS_CLOCK_REASONS

GPU = "GPU-0"


def error(code: int) -> Exception:
    failure: Exception = pynvml.NVMLError(code)
    return failure


class FakeBindings:
    """`pynvml` with answers of its own; a function without one is not supported by the device."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith(("nvmlDevice", "nvmlSystem")):
            return getattr(pynvml, name)

        def ask(*_: object) -> Any:
            self.asked.append(name)
            answer = self._answers.get(name, error(pynvml.NVML_ERROR_NOT_SUPPORTED))
            if isinstance(answer, Exception):
                raise answer
            return answer

        return ask


def nvml_with(**answers: Any) -> PynvmlNvml:
    return PynvmlNvml(FakeBindings(**{"nvmlDeviceGetHandleByUUID": "handle", **answers}))


@pytest.fixture
def said() -> Any:
    """The warnings of a test, all of them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def process(pid: int, num_bytes: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=num_bytes)


def test_memory_of_the_device_and_of_one_process() -> None:
    nvml = nvml_with(
        nvmlDeviceGetMemoryInfo=SimpleNamespace(total=8 * 2**30, used=5 * 2**30, free=3 * 2**30),
        nvmlDeviceGetComputeRunningProcesses_v3=[process(7, 2**20), process(8, None)],
    )
    assert nvml.device_memory_bytes(GPU) == 5 * 2**30
    assert nvml.process_memory_bytes(GPU, pid=7) == 2**20
    assert nvml.process_memory_bytes(GPU, pid=8) is None  # a container hides it
    assert nvml.process_memory_bytes(GPU, pid=9) is None


def test_a_process_of_both_kinds_counts_once_and_its_slices_add_up() -> None:
    nvml = nvml_with(
        nvmlDeviceGetComputeRunningProcesses_v3=[process(7, 30), process(7, 12), process(8, None)],
        nvmlDeviceGetGraphicsRunningProcesses_v3=[process(7, 42), process(8, 5), process(9, None)],
    )
    assert nvml.processes(GPU) == {7: 42, 8: 5, 9: None}


def test_one_slice_of_unknown_size_makes_the_process_unknown() -> None:
    nvml = nvml_with(nvmlDeviceGetComputeRunningProcesses_v3=[process(7, None), process(7, 12)])
    assert nvml.processes(GPU) == {7: None}


def test_what_the_device_does_not_support_is_unknown_and_no_reason_to_warn(said: list[Any]) -> None:
    nvml = nvml_with()
    assert nvml.memory(GPU) is None
    assert nvml.device_memory_bytes(GPU) is None
    assert nvml.processes(GPU) is None
    assert nvml.process_memory_bytes(GPU, pid=7) is None
    assert nvml.energy_j(GPU) is None
    assert nvml.power_w(GPU) is None
    assert nvml.sm_clock_mhz(GPU) is None
    assert nvml.clock_reasons(GPU) is None
    assert nvml.temperature_c(GPU) is None
    assert nvml.utilisation(GPU) is None
    assert nvml.describe(GPU) == {}
    assert said == []


def test_the_average_power_is_no_stand_in_for_the_power_now() -> None:
    assert nvml_with(nvmlDeviceGetPowerUsage=99_000).power_w(GPU) is None


@pytest.mark.parametrize(
    "code",
    [pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_UNKNOWN],
)
def test_other_refusals_warn_once_for_each_function(code: int, said: list[Any]) -> None:
    nvml = nvml_with(nvmlDeviceGetTotalEnergyConsumption=error(code), nvmlDeviceGetClockInfo=error(code))
    for _ in range(3):
        assert nvml.energy_j(GPU) is None
        assert nvml.sm_clock_mhz(GPU) is None
    texts = [str(one.message) for one in said]
    assert len(texts) == 2
    assert "nvmlDeviceGetTotalEnergyConsumption" in texts[0]
    assert "nvmlDeviceGetClockInfo" in texts[1]
    assert all(GPU in text and str(error(code)) in text for text in texts)


def test_a_new_cause_warns_again(said: list[Any]) -> None:
    answers: dict[str, Any] = {
        "nvmlDeviceGetTotalEnergyConsumption": error(pynvml.NVML_ERROR_NO_PERMISSION),
    }
    bindings = FakeBindings(nvmlDeviceGetHandleByUUID="handle")
    bindings._answers |= answers
    nvml = PynvmlNvml(bindings)
    nvml.energy_j(GPU)
    bindings._answers["nvmlDeviceGetTotalEnergyConsumption"] = error(pynvml.NVML_ERROR_TIMEOUT)
    nvml.energy_j(GPU)
    bindings._answers["nvmlDeviceGetTotalEnergyConsumption"] = 3_000
    assert nvml.energy_j(GPU) == 3.0  # the refusals before were not for good
    assert len(said) == 2


def test_a_lost_gpu_warns_once_and_is_asked_no_more(said: list[Any]) -> None:
    lost = error(pynvml.NVML_ERROR_GPU_IS_LOST)
    bindings = FakeBindings(nvmlDeviceGetHandleByUUID="handle", nvmlDeviceGetClockInfo=lost)
    bindings._answers["nvmlDeviceGetTotalEnergyConsumption"] = 3_000
    nvml = PynvmlNvml(bindings)
    assert nvml.energy_j(GPU) == 3.0
    assert nvml.sm_clock_mhz(GPU) is None
    num_asked = len(bindings.asked)
    assert nvml.energy_j(GPU) is None
    assert nvml.memory(GPU) is None
    assert nvml.processes(GPU) is None
    assert len(bindings.asked) == num_asked
    assert [str(one.message) for one in said] == [f"NVML, {GPU}: GPU is lost (it is no longer queried)"]
    assert nvml.energy_j("GPU-1") == 3.0  # the other one is well


def test_an_unknown_uuid_warns_once_whatever_is_asked(said: list[Any]) -> None:
    nvml = nvml_with(nvmlDeviceGetHandleByUUID=error(pynvml.NVML_ERROR_NOT_FOUND))
    assert nvml.energy_j(GPU) is None
    assert nvml.memory(GPU) is None
    assert len(said) == 1


def test_bindings_that_lack_a_function_are_as_a_driver_that_does(said: list[Any]) -> None:
    class OldBindings(FakeBindings):
        def __getattr__(self, name: str) -> Any:
            if name in {"nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons"}:
                raise AttributeError(name)
            return super().__getattr__(name)

    nvml = PynvmlNvml(OldBindings(nvmlDeviceGetHandleByUUID="handle", nvmlDeviceGetTemperature=54))
    assert nvml.temperature_c(GPU) == 54
    assert nvml.clock_reasons(GPU) is None
    assert said == []  # the older name is there; the device does not support it


def test_reasons_have_names_and_new_ones_their_number() -> None:
    assert reason_names(0) == ()
    assert reason_names(0x44) == ("sw_power_cap", "hw_thermal_slowdown")
    assert reason_names(0x8001) == ("gpu_idle", "reason_0x8000")


def test_the_names_of_reasons_are_those_of_the_bindings() -> None:
    for bit, name in CLOCK_REASONS.items():
        camel_case = "".join(word.capitalize() for word in name.split("_"))
        assert getattr(pynvml, f"nvmlClocksThrottleReason{camel_case}") == bit
    assert set(CLOCK_REASONS.values()) >= HARMLESS_CLOCK_REASONS


def test_the_description_has_units_and_leaves_out_what_is_unknown() -> None:
    nvml = nvml_with(
        nvmlDeviceGetEnforcedPowerLimit=700_000,
        nvmlSystemGetDriverVersion="580.1",
        nvmlSystemGetCudaDriverVersion_v2=12080,
        nvmlDeviceGetEccMode=[1, 1],
        nvmlDeviceGetPersistenceMode=0,
    )
    assert nvml.describe(GPU) == {
        "power_limit_w": 700.0,
        "driver": "580.1",
        "cuda_driver": "12.8",
        "ecc": True,
        "persistence_mode": False,
    }


def test_without_a_driver_there_is_the_null_twin(monkeypatch: pytest.MonkeyPatch, said: list[Any]) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", raising(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    nvml = open_nvml()
    assert isinstance(nvml, NullNvml)
    assert nvml.list_devices() == []
    assert said == []  # a machine without a GPU is nothing to warn of
    assert nvml.device_memory_bytes(GPU) is None  # but this one has a GPU, or who would ask
    assert nvml.describe(GPU) == {}
    assert [str(one.message) for one in said] == [
        f"NVML reports nothing about {GPU}: NVML Shared Library Not Found"
    ]


def test_the_null_twin_knows_nothing() -> None:
    nvml = NullNvml()
    answers = [
        nvml.memory(GPU),
        nvml.processes(GPU),
        nvml.process_memory_bytes(GPU, 7),
        nvml.energy_j(GPU),
        nvml.power_w(GPU),
        nvml.sm_clock_mhz(GPU),
        nvml.memory_clock_mhz(GPU),
        nvml.clock_reasons(GPU),
        nvml.temperature_c(GPU),
        nvml.utilisation(GPU),
    ]
    assert answers == [None] * len(answers)


def test_a_driver_that_fails_warns_once_and_is_not_used(
    monkeypatch: pytest.MonkeyPatch, said: list[Any]
) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", raising(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH))
    nvml = open_nvml()
    assert isinstance(nvml, NullNvml)
    assert nvml.energy_j(GPU) is None
    assert len(said) == 1
    assert "NVML is not used" in str(said[0].message)


def raising(code: int) -> Any:
    def fail() -> None:
        raise error(code)

    return fail
