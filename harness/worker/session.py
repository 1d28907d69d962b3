"""The worker between requests: the case that is open, and what is kept from case to case."""

from __future__ import annotations

from typing import Any

import torch

from gqabench.attention_impls import AttentionProblem
from gqabench.harness.worker.memory.memory_limit import require_memory_for_inputs
from gqabench.harness.worker.open_case import OpenCase
from gqabench.harness.worker.subjects.table import make_generate_subject, make_subject
from gqabench.harness.worker.timing.clock import Clock, make_clock
from gqabench.harness.workers.replies import CaseClosed, CaseOpened


class Session:
    """One case at a time, and one clock for each device."""

    def __init__(self) -> None:
        self._case: OpenCase | None = None
        self._clocks: dict[str, Clock] = {}
        """By device: what they flush the cache with is kept from case to case"""

    @property
    def case(self) -> OpenCase:
        """The case that is open: one has to be."""
        assert self._case is not None, "no case is open"
        return self._case

    def open_case(
        self,
        problem: dict[str, Any],
        workload: str,
        hidden_size: int,
        seed: int,
        max_check_gflop: float,
        llama: dict[str, Any] | None = None,
        huge_pages: bool = True,
    ) -> CaseOpened:
        """Make the inputs and the float64 reference of a case.

        `problem` has the fields of an `AttentionProblem`, `llama` those of a `LlamaShape`; `huge_pages` says
        whether a CPU's arms are measured on huge pages. Raises `NotEnoughMemory` where the inputs alone do
        not fit.
        """
        self.close_case()
        asked = AttentionProblem(**problem)
        _make_current(torch.device(asked.device))
        require_memory_for_inputs(asked)
        clock = self._clock(asked.device)  # before the inputs: see there
        with torch.inference_mode():
            if llama is None:
                subject = make_subject(asked, workload, hidden_size, seed, max_check_gflop)
            else:
                subject = make_generate_subject(asked, llama, seed)
        self._case = OpenCase(asked, subject, clock, huge_pages)
        return self._case.describe()

    def close_case(self) -> CaseClosed:
        """Free everything that the open case holds, if there is one."""
        is_spoilt = self._case is not None and self._case.is_spoilt
        self._case = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return CaseClosed(is_spoilt=is_spoilt)

    def _clock(self, device: str) -> Clock:
        """Return the device's clock, made once.

        What it flushes with is a process's first large allocation, before any inputs. The kernel hands out
        first what was freed last, scattered pages: inputs on those were read 15 to 25 % more slowly, all
        through a worker's first case, in whichever of two workers opened it first (in a virtual machine).
        """
        if device not in self._clocks:
            self._clocks[device] = make_clock(device)
        return self._clocks[device]


def _make_current(device: torch.device) -> None:
    """Make the GPU current for kernels that are launched without PyTorch, such as Triton's."""
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
