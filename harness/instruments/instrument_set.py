"""What cases are measured with, besides the workers that run them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gqabench.harness.instruments.energy_pass import EnergyPass
from gqabench.harness.instruments.monitor import Monitor, Sample, Trace
from gqabench.harness.instruments.roof_gauge import RoofGauge
from gqabench.harness.machine.nvml import Nvml
from gqabench.results.store.run_folder import LineWriter

MONITOR_INTERVAL_S = 0.5


@dataclass
class Instruments:
    """One set serves all cases of a process."""

    nvml: Nvml
    roofs: RoofGauge = field(default_factory=RoofGauge)
    energy: EnergyPass = field(init=False)
    conditions: LineWriter | None = None
    """Where the looks at the machine are kept, one line for each time that arms were timed."""

    def __post_init__(self) -> None:
        self.energy = EnergyPass(self.nvml)

    def monitor(self, uuid: str | None, worker_pid: int) -> Monitor:
        """Make what watches a device (None: the CPU alone) and the machine while a worker is timed."""
        return Monitor(self.nvml, uuid, worker_pid, MONITOR_INTERVAL_S)

    def keep(self, case_id: str, device: str, trace: Trace) -> None:
        """Write down what a watch saw. Raises `OSError` when the disk refuses it."""
        if self.conditions is None:
            return
        looks = [_look(sample, trace.samples[0].at_s) for sample in trace.samples]
        self.conditions.write({"case_id": case_id, "device": device, "looks": looks})


def _look(sample: Sample, began_s: float) -> dict[str, Any]:
    """Convert a sample to plain values, with its time since the first sample of its watch."""
    return {
        "at_s": round(sample.at_s - began_s, 3),
        "others_cpu_s": sample.others_cpu_s,
        "clock_mhz": sample.clock_mhz,
        "power_w": sample.power_w,
        "temperature_c": sample.temperature_c,
        "clock_reasons": None if sample.clock_reasons is None else list(sample.clock_reasons),
    }
