"""NVML through the real bindings, against a driver library of our own: `fake_nvml/nvml.c`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[3]
SOURCE = Path(__file__).parent / "fake_nvml" / "nvml.c"

SMALL = "GPU-11111111-aaaa-4000-8000-000000000001"
BIG = "GPU-22222222-bbbb-4000-8000-000000000002"
SLICE = "MIG-33333333-cccc-4000-8000-000000000003"
OTHER_SLICE = "MIG-44444444-dddd-4000-8000-000000000004"
MIB = 2**20

NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, TIMEOUT = 3, 4, 9, 10

PREAMBLE = f"""
import ctypes, json, os, sys, time, warnings
from dataclasses import asdict
from gqabench.harness.machine.nvml import *
SMALL, BIG, SLICE, OTHER_SLICE = {(SMALL, BIG, SLICE, OTHER_SLICE)!r}
said = warnings.catch_warnings(record=True).__enter__()
warnings.simplefilter("always")
nvml = open_nvml()
"""
EPILOGUE = """
print(json.dumps({"answers": answers, "said": [str(one.message) for one in said]}, default=asdict))
"""


@dataclass(frozen=True)
class Told:
    """What a process with the library said."""

    answers: Any
    said: list[str]


class Driver:
    """A folder with the library in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, program: str, **settings: object) -> Told:
        """Run a program that has `nvml` and sets `answers`, in a process that finds the library."""
        folders = [str(self._folder), os.environ.get("LD_LIBRARY_PATH")]
        finished = subprocess.run(
            [sys.executable, "-P", "-c", PREAMBLE + program + EPILOGUE],
            env=os.environ
            | {"PYTHONPATH": str(PROJECT), "LD_LIBRARY_PATH": ":".join(filter(None, folders))}
            | {f"FAKE_NVML_{name.upper()}": str(value) for name, value in settings.items()},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        return Told(**json.loads(finished.stdout))

    def ask(self, *questions: str, **settings: object) -> Told:
        """Answers to expressions."""
        return self.run(f"answers = [{', '.join(questions)}]", **settings)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Driver]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to build the library with")

    def compile_library(*flags: str) -> Driver:
        folder = tmp_path_factory.mktemp("nvml")
        library = folder / "libnvidia-ml.so.1"
        command = [
            compiler,
            "-shared",
            "-fPIC",
            "-Wall",
            "-Werror",
            *flags,
            "-o",
            str(library),
            str(SOURCE),
            "-lm",
        ]
        subprocess.run(command, check=True, timeout=60)
        return Driver(folder)

    return compile_library


@pytest.fixture(scope="module")
def driver(build: Callable[..., Driver]) -> Driver:
    return build()


@pytest.fixture(scope="module")
def old_driver(build: Callable[..., Driver]) -> Driver:
    return build("-DOLD_DRIVER")


def test_each_question_reaches_the_device_of_its_uuid(driver: Driver) -> None:
    told = driver.ask(
        "nvml.device_memory_bytes(SMALL)",
        "nvml.device_memory_bytes(BIG)",
        "nvml.memory(BIG)",
        "nvml.sm_clock_mhz(SMALL)",
        "nvml.sm_clock_mhz(BIG)",
        "nvml.memory_clock_mhz(BIG)",
        "nvml.temperature_c(BIG)",
        "nvml.clock_reasons(BIG)",
        "nvml.power_w(BIG)",
        "nvml.energy_j(BIG) >= 5000",
        "nvml.utilisation(BIG)",
        reasons=0x44,
    )
    assert told.answers == [
        300 * MIB,
        1000 * MIB,
        {
            "total_bytes": 143360 * MIB,
            "used_bytes": 1000 * MIB,
            "free_bytes": (143360 - 1000 - 512) * MIB,
            "reserved_bytes": 512 * MIB,
        },
        1485,
        1965,
        3186,
        55,
        ["sw_power_cap", "hw_thermal_slowdown"],
        100.0,
        True,
        {"gpu": 0.75, "memory": 0.2},
    ]
    assert told.said == []


def test_processes_are_told_with_what_a_container_hides(driver: Driver) -> None:
    told = driver.ask(
        "nvml.process_memory_bytes(BIG, 7)",
        "nvml.process_memory_bytes(BIG, 8)",
        "nvml.process_memory_bytes(BIG, 9)",
        "nvml.process_memory_bytes(BIG, 10)",
        "sorted(nvml.processes(BIG))",
        compute="7:1048576,8:na",
        graphics="7:1048576,9:4096",
    )
    assert told.answers == [MIB, None, 4096, None, [7, 8, 9]]
    assert told.said == []


def test_no_process_is_an_empty_list_and_not_unknown(driver: Driver) -> None:
    assert driver.ask("nvml.processes(BIG)").answers == [{}]


def test_the_description_of_a_gpu(driver: Driver) -> None:
    told = driver.ask("nvml.describe(BIG)", "nvml.describe(SMALL)", reasons=1)
    big, small = told.answers
    assert big == {
        "name": "NVIDIA Big",
        "driver": "580.65.06",
        "cuda_driver": "13.2",
        "vbios": "96.00.99.00.01",
        "total_memory_bytes": 143360 * MIB,
        "reserved_memory_bytes": 512 * MIB,
        "sm_clock_mhz": 1965,
        "max_sm_clock_mhz": 1980,
        "memory_clock_mhz": 3186,
        "max_memory_clock_mhz": 3201,
        "throttle_reasons": ["gpu_idle"],
        "power_w": 100.0,
        "power_limit_w": 500.0,
        "default_power_limit_w": 700.0,
        "temperature_c": 55,
        "ecc": True,
        "mig_mode": False,
        "persistence_mode": False,
        "compute_mode": "exclusive_process",
        "pcie_generation": 1,
        "max_pcie_generation": 5,
        "pcie_width": 8,
        "max_pcie_width": 16,
    }
    assert big.keys() - small.keys() == {"ecc", "mig_mode"}  # not supported by the small one
    assert told.said == []


def test_an_old_driver_is_asked_by_the_old_names(old_driver: Driver) -> None:
    told = old_driver.ask(
        "nvml.memory(BIG)",
        "nvml.processes(BIG)",
        "nvml.clock_reasons(BIG)",
        "nvml.temperature_c(BIG)",
        "nvml.describe(BIG)['cuda_driver']",
        compute="7:1048576",
        reasons=0x20,
    )
    memory, processes, reasons, temperature, cuda_driver = told.answers
    assert memory["used_bytes"] == (1000 + 512) * MIB
    assert memory["reserved_bytes"] is None
    assert (processes, reasons, temperature) == ({"7": MIB}, ["sw_thermal_slowdown"], 54)
    assert cuda_driver == "13.2"
    assert len(told.said) == 1  # it has no field values, and none of the older functions tells power now
    assert "nvmlDeviceGetFieldValues" in told.said[0]


def test_a_function_that_is_missing_warns_once(old_driver: Driver) -> None:
    told = old_driver.ask("nvml.power_w(BIG)", "nvml.power_w(BIG)", "nvml.energy_j(BIG) > 0")
    assert told.answers == [None, None, True]
    assert told.said == [f"NVML, {BIG}: Function Not Found (nvmlDeviceGetFieldValues)"]


def test_what_a_device_does_not_support_is_unknown(driver: Driver) -> None:
    functions = ["nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetClockInfo", "186"]
    told = driver.ask(
        "nvml.energy_j(BIG)",
        "nvml.sm_clock_mhz(BIG)",
        "nvml.power_w(BIG)",
        "nvml.temperature_c(BIG)",
        errors=",".join(f"{function}={NOT_SUPPORTED}" for function in functions),
    )
    assert told.answers == [None, None, None, 55]
    assert told.said == []


def test_what_is_not_permitted_warns_once_for_each_function(driver: Driver) -> None:
    functions = ["nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetComputeRunningProcesses_v3", "186"]
    told = driver.ask(
        *["nvml.energy_j(BIG)", "nvml.process_memory_bytes(BIG, 7)", "nvml.power_w(BIG)"] * 2,
        "nvml.sm_clock_mhz(BIG)",
        compute="7:1024",
        errors=",".join(f"{function}={NO_PERMISSION}" for function in functions),
    )
    assert told.answers == [None] * 6 + [1965]
    assert told.said == [
        f"NVML, {BIG}: Insufficient Permissions (nvmlDeviceGetTotalEnergyConsumption)",
        f"NVML, {BIG}: Insufficient Permissions (nvmlDeviceGetComputeRunningProcesses_v3)",
        f"NVML, {BIG}: Insufficient Permissions (nvmlDeviceGetFieldValues, field 186)",
    ]


def test_a_gpu_that_is_lost_on_the_way_warns_once_and_is_not_asked_again(driver: Driver) -> None:
    told = driver.run(
        """
answers = [nvml.sm_clock_mhz(BIG) for _ in range(6)]
answers += [nvml.energy_j(BIG), nvml.processes(BIG), nvml.memory(BIG)]
answers += [ctypes.c_long.in_dll(ctypes.CDLL("libnvidia-ml.so.1"), "fake_num_questions").value]
""",
        lost_after=5,
    )
    # One question is for the handle.
    assert told.answers == [1965] * 4 + [None] * 5 + [6]
    assert told.said == [f"NVML, {BIG}: GPU is lost (it is no longer queried)"]


def test_a_gpu_that_was_lost_before_is_described_as_far_as_the_driver_goes(driver: Driver) -> None:
    told = driver.ask("nvml.describe(BIG)", "nvml.list_devices()", lost_after=0)
    assert told.answers == [{"driver": "580.65.06", "cuda_driver": "13.2"}, []]
    assert len(told.said) == 2


def test_an_unknown_uuid_is_unknown_throughout(driver: Driver) -> None:
    told = driver.ask("nvml.energy_j('GPU-none')", "nvml.memory('GPU-none')", "nvml.memory('MIG-none')")
    assert told.answers == [None, None, None]
    assert told.said == [
        "NVML, GPU-none: Not Found (nvmlDeviceGetHandleByUUID)",
        "NVML, MIG-none: Not Found (nvmlDeviceGetHandleByUUID)",
    ]


def test_gpus_are_listed_in_order_of_the_bus_and_ordinals_follow_cuda(driver: Driver) -> None:
    told = driver.ask(
        "nvml.list_devices()",
        "cuda_device_uuid(nvml, 0, {'CUDA_DEVICE_ORDER': 'PCI_BUS_ID'})",
        "cuda_device_uuid(nvml, 0, {'CUDA_DEVICE_ORDER': 'PCI_BUS_ID', 'CUDA_VISIBLE_DEVICES': '1,0'})",
        "cuda_device_uuid(nvml, 0, {})",  # the big one, which CUDA alone can say
        "cuda_device_uuid(nvml, 1, {'CUDA_VISIBLE_DEVICES': 'GPU-2222,GPU-1'})",
    )
    assert told.answers == [
        [
            {"uuid": SMALL, "name": "NVIDIA Small", "mig_uuids": None},
            {"uuid": BIG, "name": "NVIDIA Big", "mig_uuids": None},
        ],
        SMALL,
        BIG,
        None,
        SMALL,
    ]
    assert told.said == []


def test_a_slice_has_its_own_memory_and_the_energy_and_clocks_of_its_board(driver: Driver) -> None:
    told = driver.ask(
        "nvml.device_memory_bytes(SLICE)",
        "nvml.device_memory_bytes(OTHER_SLICE)",
        "nvml.sm_clock_mhz(SLICE)",
        "nvml.temperature_c(SLICE)",
        "nvml.power_w(SLICE)",
        "nvml.energy_j(SLICE) == nvml.energy_j(BIG) > 0",
        "nvml.utilisation(SLICE)",
        "nvml.processes(SLICE)",
        "[nvml.describe(SLICE)[key] for key in ('name', 'total_memory_bytes', 'mig_mode', 'vbios')]",
        "[one.mig_uuids for one in nvml.list_devices()]",
        "cuda_device_uuid(nvml, 0, {'CUDA_VISIBLE_DEVICES': OTHER_SLICE})",
        mig=2,
        compute="7:1024",
        manual_clock=1,
    )
    assert told.answers == [
        40 * MIB,
        50 * MIB,
        1965,
        55,
        100.0,
        True,
        None,
        {"7": 1024},
        ["NVIDIA Big MIG 1g.18gb", 16384 * MIB, True, "96.00.99.00.01"],
        [None, [SLICE, OTHER_SLICE]],
        OTHER_SLICE,
    ]
    assert told.said == []


def test_a_slice_that_comes_with_the_prefix_of_a_gpu_is_found(driver: Driver) -> None:
    """`torch` gives the UUID of a device without a prefix."""
    told = driver.ask("nvml.device_memory_bytes('GPU-' + SLICE.removeprefix('MIG-'))", mig=1)
    assert told.answers == [40 * MIB]
    assert told.said == []


def test_a_library_without_its_driver_is_as_none(driver: Driver) -> None:
    told = driver.ask("type(nvml).__name__", "nvml.list_devices()", init=DRIVER_NOT_LOADED)
    assert told.answers == ["NullNvml", []]
    assert told.said == []
    told = driver.ask("nvml.energy_j(BIG)", "nvml.energy_j(BIG)", init=DRIVER_NOT_LOADED)
    assert told.answers == [None, None]
    assert told.said == [f"NVML reports nothing about {BIG}: Driver Not Loaded"]


def test_a_driver_that_does_not_start_warns_once(driver: Driver) -> None:
    told = driver.ask("nvml.energy_j(BIG)", "nvml.memory(BIG)", init=TIMEOUT)
    assert told.answers == [None, None]
    assert len(told.said) == 1
    assert told.said[0].startswith("NVML is not used")


ENERGY = """
from gqabench.harness.instruments.energy import *
library = ctypes.CDLL("libnvidia-ml.so.1")
library.fake_now_s.restype = ctypes.c_double
def sleep(seconds):
    library.fake_advance_s(ctypes.c_double(seconds))
def draw(watts):
    library.fake_set_power_w(ctypes.c_double(watts))
CALL_S, CALL_W, IDLE_W = 0.0025, 600.0, 100.0
def run_for(seconds):
    sleep(0.037)  # the request, at a phase of the counter's own
    draw(CALL_W)
    num_calls = -(-seconds // CALL_S)
    sleep(num_calls * CALL_S)
    draw(IDLE_W)
    return int(num_calls), num_calls * CALL_S
time = dict(clock=library.fake_now_s, sleep=sleep)
"""


def test_a_counter_that_steps_gives_the_joules_of_a_call(driver: Driver) -> None:
    told = driver.run(
        ENERGY
        + """
sleep(0.0421)
meter = open_energy_meter(nvml, BIG)
period_s = infer_period_s(meter, **time)
sleep(0.0421)
idle_power_w = measure_idle_power_w(meter, 1.0, **time)
sleep(0.0421)
energy = measure_energy(meter, run_for, idle_power_w, period_s, 8, **time)
answers = [period_s, idle_power_w, energy]
""",
        manual_clock=1,
        step_ms=100,
    )
    period_s, idle_power_w, energy = told.answers
    assert period_s == pytest.approx(0.1, abs=0.0011)  # it looks once a millisecond
    assert idle_power_w == pytest.approx(100, rel=2e-3)
    # 600 W for 2.5 ms, less 100 W. A period of full power, which readings between steps can miss, is 6 %.
    assert energy["j_per_call"] == pytest.approx(500 * 0.0025, rel=5e-4)
    assert energy["j_per_token"] == energy["j_per_call"] / 8
    assert energy["num_calls"] == pytest.approx(800, abs=10)
    assert 2.0 < energy["window_s"] < 2.3
    assert energy["source"] == "nvml"
    assert energy["reason"] is None
    assert told.said == []


def test_energy_of_a_gpu_that_is_lost_on_the_way(driver: Driver) -> None:
    told = driver.run(
        ENERGY
        + """
meter = open_energy_meter(nvml, BIG)
energy = measure_energy(meter, run_for, 100.0, 0.1, 8, **time)
answers = [energy, open_energy_meter(nvml, BIG)]
""",
        manual_clock=1,
        lost_after=110,  # the first step is found by then, the second is not
    )
    energy, meter = told.answers
    assert energy["j_per_call"] is None
    assert energy["reason"] == "the counter can no longer be read"
    assert meter is None
    assert told.said == [f"NVML, {BIG}: GPU is lost (it is no longer queried)"]


def test_the_period_is_found_on_the_real_clock_without_being_busy(driver: Driver) -> None:
    told = driver.run(
        """
from gqabench.harness.instruments.energy import *
began = time.process_time()
answers = [infer_period_s(open_energy_meter(nvml, BIG)), time.process_time() - began]
""",
        step_ms=100,
    )
    period_s, cpu_s = told.answers
    assert period_s == pytest.approx(0.1, abs=0.01)
    assert cpu_s < 0.5  # of about 1.1 s


def test_the_monitor_sees_what_the_driver_tells(driver: Driver) -> None:
    told = driver.run(
        """
from gqabench.harness.instruments.monitor import Monitor
os.environ["FAKE_NVML_COMPUTE"] = f"{os.getpid()}:1024,1:1024"
with Monitor(nvml, BIG, worker_pid=os.getpid(), interval_s=0.02).watching() as watch:
    time.sleep(0.3)
answers = [watch.trace.record_fields(), watch.trace.gpu_other_processes, len(watch.trace.samples)]
""",
        reasons=0x22,
    )
    fields, gpu_other_processes, num_samples = told.answers
    assert fields.pop("background_load") >= 0
    assert fields == {
        "clock_mhz": 1965.0,
        "power_w": 100.0,
        "temperature_c": 55.0,
        "throttle_reasons": ["sw_thermal_slowdown"],
    }
    assert gpu_other_processes is True
    assert num_samples > 4
    assert told.said == []


def test_the_monitor_outlives_a_gpu_that_is_lost(driver: Driver) -> None:
    told = driver.run(
        """
from gqabench.harness.instruments.monitor import Monitor
with Monitor(nvml, BIG, worker_pid=os.getpid(), interval_s=0.02).watching() as watch:
    time.sleep(0.3)
answers = [watch.trace.clock_mhz, len(watch.trace.samples), watch.trace.samples[-1].clock_mhz]
""",
        lost_after=12,
    )
    clock_mhz, num_samples, last_clock_mhz = told.answers
    assert clock_mhz == 1965.0  # of the looks before
    assert num_samples > 4
    assert last_clock_mhz is None
    assert told.said == [f"NVML, {BIG}: GPU is lost (it is no longer queried)"]
