"""The ceilings of a device, measured: bytes read, bytes copied and matrix operations per second.

A roof is a ceiling, so each is the best repetition of the best of several ways. The data are random: zeros
draw less power and run faster.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from gqabench.harness.machine.roofs import Roof, Roofs
from gqabench.harness.worker.memory.huge_pages import ask_for_huge_pages
from gqabench.harness.worker.memory.memory_limit import available_bytes
from gqabench.harness.worker.timing.cache_flush import all_usable_caches_bytes, last_level_cache_bytes

_CACHES_IN_BUFFER = 16
"""The buffer is this many times the last-level cache: what stays cached from pass to pass is at most 6 %."""
_NUM_SLICES = {"cpu": 8, "cuda": 1}
"""Parts of the buffer that are read in turn. On a CPU a short call may slip through between two time slices
of its neighbours; on a GPU a long one hides what a launch costs."""
_FEWEST_BUFFER_BYTES = 256 * 2**20
_MOST_BUFFER_BYTES = 4 * 2**30
_MOST_SHARE_OF_MEMORY = 8
"""The buffer takes at most one part in so many of the memory that is free."""
_RANDOM_BYTES = 32 * 2**20
"""A CPU makes random numbers slowly: so many bytes are drawn, and repeated."""

_WIDTHS = (4096, 65536)
"""Lengths, in elements, of the rows whose sums are one way to read: they divide any buffer."""
_TRITON_BLOCKS = (1024, 2048, 4096)
_TRITON_WARPS = 8
"""With these blocks each thread has 32 to 128 bytes in flight."""
tl: Any = None
"""Triton's language: a kernel finds it among the globals of its module."""

_MATRIX_SIZES = {"cpu": (256, 512, 1024, 2048, 4096), "cuda": (2048, 4096, 8192)}
"""Small ones stay in a core's cache, as the tiles of an attention kernel do."""

_READ_SECONDS = {"cpu": 0.9, "cuda": 0.5}
_COPY_SECONDS = {"cpu": 0.4, "cuda": 0.2}
_MATMUL_SECONDS = {"cpu": 0.4, "cuda": 0.3}
"""Of each dtype."""
_ROUNDS_OF_ALL_WAYS = 3
_NUM_CONTENDERS = 3
"""After the first rounds only the best few ways go on."""
_FEWEST_ROUNDS = 5
_SLEEP_CYCLES = 400_000
"""About 0.2 ms on a GPU: the host queues a call behind it, so that the launch is hidden."""

Call = Callable[[], object]


@dataclass
class Way:
    """One way to use all of a device's memory bandwidth, or of its arithmetic."""

    name: str
    amount: float
    """Bytes, or operations, of one call."""
    calls: Sequence[Call]
    """The same on different data. They take turns, so that none meets what it has left in a cache."""
    seconds: list[float] = field(default_factory=list)
    """What each repetition took."""

    @property
    def best(self) -> float:
        """Amount per second of the quickest repetition."""
        return self.amount / min(self.seconds)


def measure_roofs(device: str, dtypes: list[str]) -> Roofs:
    """Measure the roofs of `cpu` or `cuda:N`, in about 3 s on a CPU and 2 s on a GPU, compiling apart.

    Copying counts bytes read and bytes written. A CPU's threads run for less than all of the time where
    neighbours take the rest: the roofs have their share of it.
    """
    kind = torch.device(device).type
    with torch.inference_mode():
        buffer = _random_buffer(device)
        try:
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            read = _fastest(_reads(buffer), device, _READ_SECONDS[kind])
            copy = _fastest([_copy(buffer)], device, _COPY_SECONDS[kind])
            cpu_s, seconds = time.process_time() - began_cpu_s, time.perf_counter() - began_s
            del buffer
            matmul = _matmul_roofs(device, kind, dtypes)
        finally:
            _give_back(kind)
    return Roofs(
        read=_roof(read, 1e9),
        copy=_roof(copy, 1e9),
        matmul={dtype: _roof(way, 1e12) for dtype, way in matmul.items()},
        cpu_share=cpu_s / seconds / torch.get_num_threads() if kind == "cpu" else None,
    )


def buffer_bytes(cache_bytes: int, free_bytes: int) -> int:
    """Return the size to read, a multiple of 32 MiB: far more than the caches, little of the free memory."""
    wanted = max(_CACHES_IN_BUFFER * cache_bytes, _FEWEST_BUFFER_BYTES)
    allowed = min(_MOST_BUFFER_BYTES, free_bytes // _MOST_SHARE_OF_MEMORY)
    return max(min(wanted, allowed) // _RANDOM_BYTES, 1) * _RANDOM_BYTES


def _random_buffer(device: str) -> torch.Tensor:
    """Draw random normal float32 values, contiguous."""
    if device == "cpu":
        caches = all_usable_caches_bytes()
        free = available_bytes() or _MOST_SHARE_OF_MEMORY * _FEWEST_BUFFER_BYTES
        buffer = torch.empty(buffer_bytes(caches, free) // 4)
        ask_for_huge_pages(buffer)  # as inputs are
        buffer.view(-1, _RANDOM_BYTES // 4).copy_(torch.randn(_RANDOM_BYTES // 4))
        return buffer
    free, _ = torch.cuda.mem_get_info(torch.device(device))
    return torch.randn(buffer_bytes(last_level_cache_bytes(device), free) // 4, device=device)


def _reads(buffer: torch.Tensor) -> list[Way]:
    """Return reductions, which write next to nothing; the fastest one differs from machine to machine."""
    slices = buffer.chunk(_NUM_SLICES[buffer.device.type])
    words = [part.view(torch.int64) for part in slices]
    ways: dict[str, list[Call]] = {
        "torch.sum of float32": [partial(torch.sum, part) for part in slices],
        "torch.sum of int64": [partial(torch.sum, part) for part in words],
        "torch.amax of float32": [partial(torch.amax, part) for part in slices],
        "torch.dot of float32": [partial(torch.dot, *part.view(2, -1)) for part in slices],
    }
    for width in _WIDTHS:
        rows = [part.view(-1, width) for part in slices]
        ways[f"torch.sum of float32 rows of {width}"] = [partial(torch.sum, part, 1) for part in rows]
    if buffer.is_cuda:
        ways |= _triton_reads(words)
    num_bytes = slices[0].nbytes
    return [Way(f"{name}, {_size(num_bytes)}", num_bytes, calls) for name, calls in ways.items()]


def _triton_reads(slices: list[torch.Tensor]) -> dict[str, list[Call]]:
    """Return kernels that only read int64, with several block sizes; none without Triton."""
    if find_spec("triton") is None:
        return {}
    kernel = _read_kernel()
    sums = slices[0].new_empty(slices[0].numel() // min(_TRITON_BLOCKS))

    def read(block: int, part: torch.Tensor) -> None:
        kernel[(part.numel() // block,)](part, sums, BLOCK=block, num_warps=_TRITON_WARPS)

    return {
        f"Triton sum of int64 blocks of {block}": [partial(read, block, part) for part in slices]
        for block in _TRITON_BLOCKS
    }


def _read_kernel() -> Any:
    """Return a kernel whose programs read one block each and write its sum. Imports Triton."""
    global tl
    triton, tl = import_module("triton"), import_module("triton.language")

    def sum_block(words, sums, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
        program = tl.program_id(0).to(tl.int64)
        tl.store(sums + program, tl.sum(tl.load(words + program * BLOCK + tl.arange(0, BLOCK)), axis=0))

    return triton.jit(sum_block)


def _copy(buffer: torch.Tensor) -> Way:
    source, target = (half.chunk(_NUM_SLICES[buffer.device.type]) for half in buffer.chunk(2))
    calls = [partial(into.copy_, part) for part, into in zip(source, target, strict=True)]
    return Way(f"copy_ of {_size(source[0].nbytes)}", 2 * source[0].nbytes, calls)


def _size(num_bytes: int) -> str:
    return f"{num_bytes // 2**20} MiB"


def _matmul_roofs(device: str, kind: str, dtypes: list[str]) -> dict[str, Way]:
    """Measure the fastest square product for each dtype.

    Whoever computes in a narrow dtype may widen its operands, so float32's roof is a floor for the others: a
    CPU without float16 arithmetic multiplies float16 matrices hundreds of times slower.
    """
    best = {dtype: _fastest_matmul(device, kind, dtype) for dtype in dict.fromkeys(["float32", *dtypes])}
    widened = best["float32"]
    return {dtype: max(best[dtype], widened, key=lambda way: way.best) for dtype in dtypes}


def _fastest_matmul(device: str, kind: str, dtype: str) -> Way:
    """Time ascending sizes, and repeat the best one when the next would take longer than the time left."""
    sizes = _MATRIX_SIZES[kind]
    deadline = time.perf_counter() + _MATMUL_SECONDS[kind]
    ways: list[Way] = []
    for place, size in enumerate(sizes):
        left_s = deadline - time.perf_counter()
        if ways and (_FEWEST_ROUNDS + 1) * 8 * min(ways[-1].seconds) > left_s:
            break
        left, right = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
        name = f"torch.mm of {dtype}, {size} x {size}"
        product = Way(name, 2 * size**3, [partial(torch.mm, left, right)])
        ways.append(_fastest([product], device, left_s / (len(sizes) + 1 - place)))
    best = max(ways, key=lambda way: way.best)
    return _fastest([best], device, deadline - time.perf_counter())


def _fastest(ways: list[Way], device: str, seconds: float) -> Way:
    """Repeat the ways in turn, from the third round on the best few only, until the time is spent.

    A way that has been repeated before is repeated further: its earlier rounds count.
    """
    usable = [way for way in ways if way.seconds or _works(way, device)]
    deadline = time.perf_counter() + seconds
    num_rounds, num_calls = min((len(way.seconds) for way in usable), default=0), 0
    while time.perf_counter() < deadline or num_rounds < _FEWEST_ROUNDS:
        for way in usable:
            way.seconds.append(_time(way.calls[num_calls % len(way.calls)], device))
            num_calls += 1
        num_rounds += 1
        if num_rounds == _ROUNDS_OF_ALL_WAYS:
            usable = sorted(usable, key=lambda way: way.best, reverse=True)[:_NUM_CONTENDERS]
    return max(usable, key=lambda way: way.best)


def _works(way: Way, device: str) -> bool:
    """Call a way once, which also compiles and warms it up. One that fails is left out, and says so."""
    try:
        _time(way.calls[0], device)
    except Exception as error:  # noqa: BLE001  whatever a compiler or a driver raises: other ways remain
        print(f"no roof by {way.name}: {type(error).__name__}: {error}", file=sys.stderr)
        return False
    return True


def _time(call: Call, device: str) -> float:
    """Return the seconds of one call."""
    if device == "cpu":
        began = time.perf_counter()
        call()
        return time.perf_counter() - began
    with torch.cuda.device(device):
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(_SLEEP_CYCLES)
        started.record()
        call()
        ended.record()
        ended.synchronize()
    return float(started.elapsed_time(ended)) / 1e3


def _roof(way: Way, unit: float) -> Roof:
    """Return the roof by the way that proved best, in `unit` a second."""
    return Roof(
        best=way.best / unit,
        median=way.amount / statistics.median(way.seconds) / unit,
        spread=statistics.quantiles(way.seconds, n=10, method="inclusive")[0] / min(way.seconds) - 1,
        num_repetitions=len(way.seconds),
        method=way.name,
    )


def _give_back(kind: str) -> None:
    """Leave the device's memory as it was found: what a case holds is weighed later."""
    gc.collect()
    if kind == "cuda":
        torch._C._cuda_clearCublasWorkspaces()  # of matrix products: tens of MB, and never given back else
        torch.cuda.empty_cache()
