"""What a GPU call takes by other ways of timing: as a graph, by a caller's wall clock, and by CUPTI."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from gqabench.harness.worker.timing.cuda_graph import CALLS_IN_GRAPH, CapturedCalls, NotCapturable
from gqabench.harness.worker.timing.kernel_time import kernel_time_fields

Call = Callable[[], Any]

_NUM_REPLAYS = 5
_NUM_EAGER_CALLS = 20

IsCorrect = Callable[[Any], bool]
"""Holds an output against the reference for the queries that were written last."""


def cross_check_fields(
    call: Call, rotate: Call, flush: Call, is_correct: IsCorrect, device: torch.device
) -> dict[str, Any]:
    """Record fields, and `could_capture`: a capture that breaks leaves marks on the process.

    `rotate` writes other queries and `flush` empties the L2, outside what is timed.
    """

    def before_each() -> None:
        rotate()
        flush()

    return {
        "eager_ms": eager_ms(call, before_each, device),
        **kernel_time_fields(call, before_each, device),
        **_graph_fields(call, rotate, flush, is_correct, device),
    }


def eager_ms(call: Call, before_each: Call, device: torch.device) -> float:
    """Median wall time of a call and of waiting for it, launches included, as a caller sees it."""
    times_ms = []
    for _ in range(_NUM_EAGER_CALLS):
        before_each()
        torch.cuda.synchronize(device)
        started = time.perf_counter_ns()
        call()
        torch.cuda.synchronize(device)
        times_ms.append((time.perf_counter_ns() - started) / 1e6)
    return median(times_ms)


def _graph_fields(
    call: Call, rotate: Call, flush: Call, is_correct: IsCorrect, device: torch.device
) -> dict[str, Any]:
    try:
        captured = CapturedCalls(call, flush, device)
    except NotCapturable as error:
        torch.cuda.synchronize(device)
        return {"graph_reason": f"cannot be captured: {error}", "could_capture": False}
    try:
        samples_ms: list[float] = []
        captured.replay()  # the first uploads the graph
        for _ in range(_NUM_REPLAYS):
            rotate()
            samples_ms += captured.replay()
        assert len(samples_ms) == _NUM_REPLAYS * CALLS_IN_GRAPH
        if not is_correct(captured.output):
            why = "its output is wrong when it is replayed as a graph on other queries"
            return {"graph_reason": why, "could_capture": True}
        return {
            "could_capture": True,
            "graph_latency_ms": median(samples_ms),
            "graph_samples_ms": samples_ms,
            "graph_pool_bytes": captured.pool_bytes,
        }
    finally:
        captured.release()
