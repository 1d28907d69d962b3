"""The memory that an implementation keeps between calls."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from gqabench.harness.worker.memory.profiler import Allocated, counting_allocated
from gqabench.harness.worker.memory.resident_set import settled_resident_bytes, unseen_bytes


class SetUpMemory:
    """What an implementation keeps once it is prepared and has been called: counted from its making on."""

    def __init__(self, device: str, synchronize: Callable[[], None]) -> None:
        self._device = device
        self._synchronize = synchronize
        self._modules = frozenset(sys.modules)
        self._resident_bytes = settled_resident_bytes() if device == "cpu" else None
        self._by_preparing = Allocated()
        self._by_calls: list[int] = []

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Count what is allocated inside and stays."""
        with counting_allocated(self._device) as self._by_preparing:
            yield

    def of_call(self, call: Callable[[], object]) -> tuple[object, float]:
        """Return the output of a call, and its milliseconds. What it leaves allocated beside that counts."""
        with counting_allocated(self._device) as allocated:
            started = time.perf_counter()
            output = call()
            self._synchronize()
            elapsed_ms = (time.perf_counter() - started) * 1e3
        self._by_calls.append((allocated.num_bytes or 0) - _storage_bytes(output))
        return output, elapsed_ms

    @property
    def kept_bytes(self) -> int:
        """What preparing left allocated, and the call that left the most: the first makes what others use."""
        return (self._by_preparing.num_bytes or 0) + max([0, *self._by_calls])

    def unseen_bytes(self) -> int | None:
        """Return by how much more the process has grown than PyTorch's allocator knows of.

        Call it once outputs are freed. None on CUDA, and where modules were imported meanwhile, whose code
        and data are nobody's cache.
        """
        now = None if self._resident_bytes is None else settled_resident_bytes()
        if now is None or self._resident_bytes is None or self._modules != frozenset(sys.modules):
            return None
        return unseen_bytes(max(now - self._resident_bytes, 0), self.kept_bytes)


def _storage_bytes(output: object) -> int:
    """Bytes of the memory that the tensors of an output stand in."""
    tensors = output if isinstance(output, (list, tuple)) else [output]
    storages = [tensor.untyped_storage() for tensor in tensors if isinstance(tensor, torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
