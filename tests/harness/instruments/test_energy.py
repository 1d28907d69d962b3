from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gqabench.harness.instruments.energy import (
    EnergyMeter,
    NvmlEnergyMeter,
    infer_period_s,
    measure_energy,
    measure_idle_power_w,
    open_energy_meter,
    window_s,
)
from gqabench.harness.machine.nvml import NullNvml
from gqabench.harness.machine.rapl import RaplEnergyMeter
from gqabench.results import Record


@dataclass
class Lab:
    """A device with a counter, on a clock that only sleeping moves."""

    period_s: float = 0.1
    watts: float = 100.0
    now_s: float = 0.0
    source: str = "nvml"
    energy_j: float = 7000.0
    shown_j: float = 7000.0
    is_lost: bool = False
    num_reads: int = 0

    def read_j(self) -> float | None:
        self.num_reads += 1
        return None if self.is_lost else self.shown_j

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        ends_s = self.now_s + seconds
        if self.period_s < math.inf:
            last_step_s = math.floor(ends_s / self.period_s + 1e-9) * self.period_s
            if last_step_s > self.now_s:
                self.shown_j = self.energy_j + self.watts * (last_step_s - self.now_s)
        self.energy_j += self.watts * seconds
        self.now_s = ends_s

    def worker(self, watts: float, call_s: float) -> Callable[[float], tuple[int, float]]:
        """Calls that draw so much while they run."""

        def run_for(seconds: float) -> tuple[int, float]:
            num_calls = max(1, round(seconds / call_s))
            self.watts, idle_watts = watts, self.watts
            self.sleep(num_calls * call_s)
            self.watts = idle_watts
            return num_calls, num_calls * call_s

        return run_for


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.mark.parametrize("period_s", [0.02, 0.1, 0.25])
def test_the_period_is_how_often_the_counter_steps(period_s: float) -> None:
    lab = Lab(period_s)
    lab.sleep(0.37 * period_s)
    found = infer_period_s(lab, clock=lab.clock, sleep=lab.sleep)
    assert found == pytest.approx(period_s, abs=0.0011)


def test_a_counter_faster_than_the_looks_has_their_distance() -> None:
    lab = Lab(period_s=1e-5)
    assert infer_period_s(lab, clock=lab.clock, sleep=lab.sleep) == pytest.approx(0.001)


def test_a_counter_that_stands_still_has_no_period_and_is_not_watched_for_ever() -> None:
    lab = Lab(period_s=math.inf)
    assert infer_period_s(lab, clock=lab.clock, sleep=lab.sleep) is None
    assert lab.now_s == pytest.approx(2.0, abs=0.01)
    assert lab.num_reads < 2100  # once a millisecond: never busy


def test_a_slow_counter_is_judged_by_the_steps_there_were() -> None:
    lab = Lab(period_s=0.6)
    assert infer_period_s(lab, clock=lab.clock, sleep=lab.sleep) == pytest.approx(0.6, abs=0.0011)
    assert lab.now_s == pytest.approx(2.0, abs=0.01)
    lab = Lab(period_s=1.5)
    assert infer_period_s(lab, clock=lab.clock, sleep=lab.sleep) is None  # one step is no distance


def test_a_counter_that_cannot_be_read_has_neither_period_nor_power(lab: Lab) -> None:
    lab.is_lost = True
    assert infer_period_s(lab, clock=lab.clock, sleep=lab.sleep) is None
    assert measure_idle_power_w(lab, 1.0, clock=lab.clock, sleep=lab.sleep) is None


@pytest.mark.parametrize("phase_s", [0.0, 0.033, 0.099])
def test_idle_power_is_taken_from_step_to_step(lab: Lab, phase_s: float) -> None:
    lab.sleep(phase_s)
    power_w = measure_idle_power_w(lab, 0.55, clock=lab.clock, sleep=lab.sleep)
    assert power_w == pytest.approx(100, rel=2e-3)  # two looks, a millisecond each, in 0.6 s


def test_idle_power_of_a_counter_that_stands_still_is_unknown() -> None:
    lab = Lab(period_s=math.inf)
    assert measure_idle_power_w(lab, 1.0, clock=lab.clock, sleep=lab.sleep) is None


def test_the_window_is_long_against_the_period() -> None:
    assert window_s(0.001) == 2.0
    assert window_s(0.1) == 2.0
    assert window_s(0.25) == 5.0


@pytest.mark.parametrize("phase_s", [0.0, 0.021, 0.077])
@pytest.mark.parametrize("call_s", [0.0007, 0.013, 0.9])
def test_joules_of_a_call_are_those_above_idle(lab: Lab, phase_s: float, call_s: float) -> None:
    lab.sleep(phase_s)
    energy = measure_energy(
        lab, lab.worker(600, call_s), 100.0, 0.1, num_tokens=4, clock=lab.clock, sleep=lab.sleep
    )
    assert energy.j_per_call == pytest.approx(500 * call_s, rel=3e-4)
    assert energy.j_per_token == pytest.approx(500 * call_s / 4, rel=3e-4)
    assert energy.num_calls == round(2.0 / call_s)
    assert energy.reason is None
    assert energy.window_s is not None
    assert energy.window_s % 0.1 == pytest.approx(0, abs=0.002) or energy.window_s % 0.1 > 0.098


def test_a_call_longer_than_the_window_is_measured_whole(lab: Lab) -> None:
    energy = measure_energy(lab, lab.worker(300, 9.0), 100.0, 0.1, 1, clock=lab.clock, sleep=lab.sleep)
    assert energy.num_calls == 1
    assert energy.j_per_call == pytest.approx(1800, rel=1e-3)


def test_the_worker_is_asked_for_twenty_periods() -> None:
    lab = Lab(period_s=0.3)
    asked = []

    def run_for(seconds: float) -> tuple[int, float]:
        asked.append(seconds)
        return lab.worker(600, 0.01)(seconds)

    measure_energy(lab, run_for, 100.0, 0.3, 1, clock=lab.clock, sleep=lab.sleep)
    assert asked == [6.0]


def test_calls_that_draw_no_more_than_idle_have_no_energy(lab: Lab) -> None:
    energy = measure_energy(lab, lab.worker(99, 0.01), 100.0, 0.1, 1, clock=lab.clock, sleep=lab.sleep)
    assert energy.j_per_call is None
    assert energy.j_per_token is None
    assert energy.reason is not None
    assert "no more than the idle device" in energy.reason
    assert energy.record_fields()["energy_j_per_call"] is None


def test_a_counter_that_stops_is_a_reason_and_not_a_zero(lab: Lab) -> None:
    run = lab.worker(600, 0.01)

    def run_for(seconds: float) -> tuple[int, float]:
        answer = run(seconds)
        lab.period_s = math.inf
        return answer

    energy = measure_energy(lab, run_for, 100.0, 0.1, 1, clock=lab.clock, sleep=lab.sleep)
    assert energy.j_per_call is None
    assert energy.reason == "the counter does not move"
    assert energy.window_s is None


def test_a_counter_that_stood_still_before_is_not_waited_for(lab: Lab) -> None:
    lab.period_s = math.inf
    energy = measure_energy(lab, lab.worker(600, 0.01), 100.0, None, 1, clock=lab.clock, sleep=lab.sleep)
    assert (energy.j_per_call, energy.reason) == (None, "the counter does not move")
    assert lab.now_s == 0.0  # no call was made either


def test_a_device_that_is_lost_meanwhile_is_a_reason(lab: Lab) -> None:
    def run_for(seconds: float) -> tuple[int, float]:
        lab.is_lost = True
        return 1, seconds

    energy = measure_energy(lab, run_for, 100.0, 0.1, 1, clock=lab.clock, sleep=lab.sleep)
    assert (energy.j_per_call, energy.reason) == (None, "the counter can no longer be read")


def test_without_idle_power_nothing_is_measured(lab: Lab) -> None:
    energy = measure_energy(lab, lab.worker(600, 0.01), None, 0.1, 1, clock=lab.clock, sleep=lab.sleep)
    assert (energy.j_per_call, energy.reason) == (None, "the idle power is unknown")
    assert lab.num_reads == 0


def test_no_call_has_no_energy(lab: Lab) -> None:
    def run_for(seconds: float) -> tuple[int, float]:
        lab.worker(600, 0.01)(seconds)
        return 0, seconds

    energy = measure_energy(lab, run_for, 100.0, 0.1, 1, clock=lab.clock, sleep=lab.sleep)
    assert (energy.j_per_call, energy.reason) == (None, "no call was made")


def test_the_fields_are_those_of_a_record(lab: Lab) -> None:
    energy = measure_energy(lab, lab.worker(600, 0.02), 100.0, 0.1, 10, clock=lab.clock, sleep=lab.sleep)
    fields = energy.record_fields()
    assert fields == {
        "energy_j_per_call": energy.j_per_call,
        "energy_j_per_token": energy.j_per_token,
        "energy_reason": None,
        "idle_power_w": 100.0,
        "energy_source": "nvml",
        "energy_window_s": energy.window_s,
    }
    assert fields.keys() <= Record.__dataclass_fields__.keys()


class NvmlWithEnergy(NullNvml):
    def energy_j(self, uuid: str) -> float | None:
        return {"GPU-0": 12.5}.get(uuid)


def test_a_gpu_is_metered_by_nvml_where_it_has_a_counter() -> None:
    meter = open_energy_meter(NvmlWithEnergy(), "GPU-0")
    assert isinstance(meter, NvmlEnergyMeter)
    assert (meter.source, meter.read_j()) == ("nvml", 12.5)
    assert open_energy_meter(NvmlWithEnergy(), "GPU-1") is None
    assert open_energy_meter(NullNvml(), "GPU-0") is None


# RAPL


def make_zone(powercap: Path, zone: str, name: str, energy_uj: int, range_uj: int = 10_000_000) -> Path:
    folder = powercap / zone
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    file = folder / "energy_uj"
    file.write_text(f"{energy_uj}\n")
    return file


def open_meter(powercap: Path) -> RaplEnergyMeter:
    meter = RaplEnergyMeter.open(powercap)
    assert meter is not None
    return meter


def test_rapl_adds_up_packages_and_nothing_twice(tmp_path: Path) -> None:
    first = make_zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    second = make_zone(tmp_path, "intel-rapl:1", "package-1", 9_000_000)
    inside = make_zone(tmp_path, "intel-rapl:0:0", "core", 0)
    around = make_zone(tmp_path, "intel-rapl:2", "psys", 0)
    again = make_zone(tmp_path, "intel-rapl-mmio:0", "package-0", 0)
    meter = open_meter(tmp_path)
    assert (meter.source, meter.read_j()) == ("rapl", 0.0)
    first.write_text("3000000")
    second.write_text("9500000")
    for file in (inside, around, again):
        file.write_text("5000000")
    assert meter.read_j() == 2.5
    assert meter.read_j() == 2.5


def test_rapl_starts_again_at_its_range(tmp_path: Path) -> None:
    file = make_zone(tmp_path, "intel-rapl:0", "package-0", 9_500_000, range_uj=10_000_000)
    meter = open_meter(tmp_path)
    for value_uj, expected_j in ((9_900_000, 0.4), (100_000, 0.6), (9_000_000, 9.5), (0, 10.5)):
        file.write_text(str(value_uj))
        assert meter.read_j() == pytest.approx(expected_j)


def test_rapl_of_dies_counts_as_packages(tmp_path: Path) -> None:
    files = [make_zone(tmp_path, f"intel-rapl:{die}", f"package-0-die-{die}", 0) for die in range(2)]
    meter = open_meter(tmp_path)
    for file in files:
        file.write_text("1000000")
    assert meter.read_j() == 2.0


def test_rapl_that_is_absent_or_may_not_be_read_is_not_there(tmp_path: Path) -> None:
    assert RaplEnergyMeter.open(tmp_path / "none") is None
    make_zone(tmp_path, "intel-rapl:0", "psys", 0)
    assert RaplEnergyMeter.open(tmp_path) is None
    make_zone(tmp_path, "intel-rapl:1", "package-0", 0)
    forbidden = make_zone(tmp_path, "intel-rapl:2", "package-1", 0)
    forbidden.unlink()
    forbidden.mkdir()  # unreadable for root too
    assert RaplEnergyMeter.open(tmp_path) is None  # half a machine is no machine


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_rapl_that_only_root_may_read_is_not_there(tmp_path: Path) -> None:
    make_zone(tmp_path, "intel-rapl:0", "package-0", 0).chmod(0)
    assert RaplEnergyMeter.open(tmp_path) is None


def test_rapl_that_becomes_unreadable_or_strange_is_unknown(tmp_path: Path) -> None:
    file = make_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = open_meter(tmp_path)
    file.write_text("")
    assert meter.read_j() is None
    file.write_text("2000000")
    assert meter.read_j() == 2.0
    file.unlink()
    assert meter.read_j() is None


def test_the_cpu_is_metered_by_rapl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    opened = RaplEnergyMeter.open(tmp_path)
    monkeypatch.setattr(RaplEnergyMeter, "open", lambda: opened)
    meter: EnergyMeter | None = open_energy_meter(NvmlWithEnergy(), None)
    assert meter is opened
