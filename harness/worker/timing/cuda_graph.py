"""Calls captured as a CUDA graph: no launch by the host lies between them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import torch

Call = Callable[[], Any]

CALLS_IN_GRAPH = 10
_WARM_UP_CALLS = 2


class NotCapturable(Exception):
    """A call that cannot be part of a CUDA graph; the message says why.

    The process should not measure further problems: PyTorch's random generator, for one, still believes that
    it is being captured.
    """


class CapturedCalls:
    """`CALLS_IN_GRAPH` calls of one arm, each after a flush of the L2 and between two events.

    The events are nodes of the graph (`cudaEventRecordExternal`), so that each call has its own time although
    the graph is launched as a whole.
    """

    def __init__(self, call: Call, flush: Call, device: torch.device) -> None:
        """Capture the calls. Raises `NotCapturable`."""
        self._device = device
        self._graph = torch.cuda.CUDAGraph()
        self._pool = torch.cuda.graph_pool_handle()
        self._pairs = [(_event(), _event()) for _ in range(CALLS_IN_GRAPH)]
        self.output: Any = None
        """What the last captured call returned; each replay computes it anew, in place."""
        try:
            self._capture(call, flush)
        except Exception as error:  # whatever an implementation does that a capture forbids
            self._give_up()
            said = " ".join(str(error).split("\n")[:1])
            raise NotCapturable(
                f"{type(error).__name__}: {said}" if said else type(error).__name__
            ) from error

    @property
    def pool_bytes(self) -> int:
        """Device memory that the graph's private pool keeps, as the allocator's segments tell."""
        pool = tuple(self._pool)
        segments = torch.cuda.memory_snapshot()
        return sum(segment["total_size"] for segment in segments if tuple(segment["segment_pool_id"]) == pool)

    def replay(self) -> list[float]:
        """Return the milliseconds of each call of one replay."""
        with torch.cuda.device(self._device):
            self._graph.replay()
            torch.cuda.synchronize()
        return [started.elapsed_time(ended) for started, ended in self._pairs]

    def release(self) -> None:
        """Give the pool's memory back."""
        self.output = None
        self._graph.reset()
        gc.collect()
        torch.cuda.empty_cache()

    def _capture(self, call: Call, flush: Call) -> None:
        stream = _capture_stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_CALLS):  # libraries make their workspaces for each stream
                call()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        torch.cuda.synchronize(self._device)
        current = torch.cuda.current_stream(self._device)
        try:
            with torch.cuda.graph(self._graph, pool=self._pool, stream=stream):
                for started, ended in self._pairs:
                    flush()
                    started.record()
                    self.output = call()
                    ended.record()
        finally:
            torch.cuda.set_stream(current)  # a capture that fails to end leaves its own current

    def _give_up(self) -> None:
        """Undo what a broken capture leaves: PyTorch 2.11 throws before it ends the allocator's part in it.

        While the allocator believes in a capture it gives no memory back, neither when it is asked to nor
        when there is none left.
        """
        self._graph.reset()
        index = self._device.index or 0
        with suppress(RuntimeError):  # the capture ended as it should: nothing is to be undone
            torch._C._cuda_endAllocateToPool(index, self._pool)
            torch._C._cuda_releasePool(index, self._pool)


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream of all captures: libraries keep a workspace for each stream that they use."""
    return torch.cuda.Stream(device)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True, external=True)
