"""Checks latencies against the measured roofs of their device, and measures again when a row beats them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gqabench.harness.cases.case import Case
from gqabench.harness.instruments.roofs import ask_for_roofs, measure_roofs_again
from gqabench.harness.machine.host import Device, HostDescription
from gqabench.harness.machine.roofs import Roofs
from gqabench.harness.workers.process import RequestFailed, WorkerProcess
from gqabench.results.flags import FLAG_WARM_SUSPECT


@dataclass
class RoofGauge:
    """Roofs by device (`cpu`, `cuda:0`); none where they were not asked for."""

    roofs: dict[str, Roofs] = field(default_factory=dict)
    _beaten: set[str] = field(default_factory=set)

    def fields(
        self,
        case: Case,
        timing: Mapping[str, Any],
        device: Device,
        host: HostDescription,
        worker: Callable[[], WorkerProcess],
    ) -> dict[str, Any]:
        """Return the record's `roof`, `roof_fraction` and `flags`; `timing` has a latency and rates."""
        name = device.device
        if name not in self.roofs:
            return {"roof": None, "roof_fraction": None, "flags": []}
        achieved, is_cold = timing["achieved_gb_per_s"], timing["cache_state"] == "cold"
        if is_cold and self.roofs[name].is_beaten_by(achieved) and name not in self._beaten:
            # Either the caches were not cold, or the roof was measured while something disturbed: look again.
            self._beaten.add(name)
            with suppress(RequestFailed):  # then the roofs that there are have to do
                self.roofs[name] = measure_roofs_again(device, host, partial(ask_for_roofs, worker(), device))
        roofs, problem = self.roofs[name], case.problem
        fields = roofs.record_fields(
            timing["latency_ms"], timing["model_bytes"], timing["model_flops"], problem.dtype
        )
        return fields | {"flags": [FLAG_WARM_SUSPECT] if is_cold and roofs.is_warm_suspect(achieved) else []}
