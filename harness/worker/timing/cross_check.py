"""What a GPU call takes by other ways of timing: as a graph, by a caller's wall clock, and by CUPTI."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from gqabench.harness.worker.timing.cuda_graph import CALLS_IN_GRAPH, CapturedCalls, NotCapturable
from gqabench.harness.worker.timing.kernel_time import measure_kernel_time
from gqabench.harness.workers.replies import CrossCheck

Call = Callable[[], Any]

_NUM_REPLAYS = 5
_NUM_EAGER_CALLS = 20

IsCorrect = Callable[[Any], bool]
"""Checks an output against the reference for the queries that were written last."""


def cross_check(
    call: Call, rotate: Call, flush: Call, is_correct: IsCorrect, device: torch.device
) -> tuple[CrossCheck, bool]:
    """Time a call in other ways; also return whether it could be captured as a graph.

    A capture that breaks leaves marks on the process. `rotate` writes other queries and `flush` empties the
    L2, outside what is timed.
    """

    def before_each() -> None:
        rotate()
        flush()

    call_ms = eager_ms(call, before_each, device)
    kernels = measure_kernel_time(call, before_each, device)
    graph = _graph_times(call, rotate, flush, is_correct, device)
    checked = CrossCheck(
        eager_ms=call_ms,
        kernel_ms=kernels.ms,
        kernel_ms_source=kernels.source,
        graph_latency_ms=None if graph.samples_ms is None else median(graph.samples_ms),
        graph_samples_ms=graph.samples_ms,
        graph_pool_bytes=graph.pool_bytes,
        graph_reason=graph.reason,
    )
    return checked, graph.could_capture


@dataclass(frozen=True)
class _GraphTimes:
    """Calls that were captured as a graph; without `samples_ms`, `reason` says why."""

    samples_ms: list[float] | None = None
    pool_bytes: int | None = None
    reason: str | None = None
    could_capture: bool = True


def eager_ms(call: Call, before_each: Call, device: torch.device) -> float:
    """Return the median wall time of a call and of waiting for it, launches included, as a caller sees it."""
    times_ms = []
    for _ in range(_NUM_EAGER_CALLS):
        before_each()
        torch.cuda.synchronize(device)
        started = time.perf_counter_ns()
        call()
        torch.cuda.synchronize(device)
        times_ms.append((time.perf_counter_ns() - started) / 1e6)
    return median(times_ms)


def _graph_times(
    call: Call, rotate: Call, flush: Call, is_correct: IsCorrect, device: torch.device
) -> _GraphTimes:
    try:
        captured = CapturedCalls(call, flush, device)
    except NotCapturable as error:
        torch.cuda.synchronize(device)
        return _GraphTimes(reason=f"cannot be captured: {error}", could_capture=False)
    try:
        samples_ms: list[float] = []
        captured.replay()  # the first uploads the graph
        for _ in range(_NUM_REPLAYS):
            rotate()
            samples_ms += captured.replay()
        assert len(samples_ms) == _NUM_REPLAYS * CALLS_IN_GRAPH
        if not is_correct(captured.output):
            return _GraphTimes(reason="its output is wrong when it is replayed as a graph on other queries")
        return _GraphTimes(samples_ms, captured.pool_bytes)
    finally:
        captured.release()
