"""Times a call on a GPU whose L2 holds none of its inputs: the measure by which tuning compares."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

NUM_CALLS = 15
_FLUSH_FACTOR = 2
_SLEEP_CYCLES = 400_000
"""About 0.2 ms: longer than the host takes to launch a call, so that launching is not measured."""


def cold_milliseconds(call: Callable[[], object], device: str) -> float:
    """Return the median time of several calls, each after the L2 was flushed, in milliseconds.

    The first call is not counted.
    """
    with torch.cuda.device(torch.device(device)):
        l2_bytes = int(torch.cuda.get_device_properties(torch.device(device)).L2_cache_size)
        buffer = torch.ones(_FLUSH_FACTOR * l2_bytes // 4, device=device)
        call()
        pairs = []
        for _ in range(NUM_CALLS):
            torch.sum(buffer)  # read, not written: what the L2 has yet to write back would slow the call
            started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(_SLEEP_CYCLES)
            started.record()
            call()
            ended.record()
            pairs.append((started, ended))
        torch.cuda.synchronize()
    return float(statistics.median(started.elapsed_time(ended) for started, ended in pairs))
