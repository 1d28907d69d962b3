from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from gqabench.harness.instruments.energy import EnergyMeter
from gqabench.harness.instruments.energy_pass import IDLE_SECONDS, NO_CPU_COUNTER, EnergyPass
from gqabench.harness.machine.nvml import NullNvml, Nvml

GPU = "GPU-0"
IDLE_W, BUSY_W, PERIOD_S, CALL_S = 100.0, 500.0, 0.1, 0.01


@dataclass
class Board:
    """A made-up GPU: its clock moves when somebody sleeps or calls, its counter in steps of a period."""

    source: str = "nvml"
    now_s: float = 0.0
    joules: float = 0.0
    shown_j: float = 0.0
    opened: list[str | None] = field(default_factory=list)

    def pass_time(self, seconds: float, watts: float = IDLE_W) -> None:
        end_s = self.now_s + seconds
        while (step_s := (int(self.now_s / PERIOD_S + 1e-9) + 1) * PERIOD_S) <= end_s + 1e-12:
            self.joules += watts * (step_s - self.now_s)
            self.now_s, self.shown_j = step_s, self.joules
        self.joules += watts * max(end_s - self.now_s, 0.0)
        self.now_s = end_s

    def read_j(self) -> float:
        return self.shown_j

    def open(self, _nvml: Nvml, uuid: str | None) -> EnergyMeter | None:
        self.opened.append(uuid)
        return self if uuid == GPU else None

    def run_for(self, seconds: float) -> tuple[int, float]:
        num_calls = round(seconds / CALL_S)
        self.pass_time(num_calls * CALL_S, BUSY_W)
        return num_calls, num_calls * CALL_S


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def energy(board: Board) -> EnergyPass:
    return EnergyPass(NullNvml(), open_meter=board.open, clock=lambda: board.now_s, sleep=board.pass_time)


def test_a_call_costs_what_it_draws_above_the_idle_device(board: Board, energy: EnergyPass) -> None:
    energy.get_ready(GPU)
    fields = energy.record_fields(GPU, board.run_for, num_tokens=8)
    assert fields["energy_j_per_call"] == pytest.approx((BUSY_W - IDLE_W) * CALL_S, rel=0.02)
    assert fields["energy_j_per_token"] == pytest.approx(fields["energy_j_per_call"] / 8)
    assert fields["idle_power_w"] == pytest.approx(IDLE_W, rel=0.01)
    assert fields["energy_window_s"] >= 20 * PERIOD_S
    assert fields["energy_reason"] is None


def test_the_idle_power_is_measured_once_a_device(board: Board, energy: EnergyPass) -> None:
    energy.get_ready(GPU)
    ready_s = board.now_s
    assert ready_s >= IDLE_SECONDS
    energy.get_ready(GPU)
    assert (board.now_s, board.opened) == (ready_s, [GPU])


def test_a_device_without_a_counter_says_so_and_runs_nothing(board: Board, energy: EnergyPass) -> None:
    energy.get_ready(None)
    fields = energy.record_fields(None, board.run_for, num_tokens=1)
    assert fields == {"energy_reason": NO_CPU_COUNTER}
    assert board.now_s == 0


def test_a_counter_that_stands_still_says_so(board: Board, energy: EnergyPass) -> None:
    energy.get_ready(GPU)
    board.read_j = lambda: 42.0  # type: ignore[method-assign]
    fields = energy.record_fields(GPU, board.run_for, num_tokens=1)
    assert (fields["energy_j_per_call"], fields["energy_reason"]) == (None, "the counter does not move")
