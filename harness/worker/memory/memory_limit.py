"""Refusing a case that cannot fit, rather than driving the machine out of memory."""

from __future__ import annotations

from pathlib import Path

from gqabench.attention_impls import AttentionProblem

_MEMINFO = Path("/proc/meminfo")


class NotEnoughMemory(MemoryError):
    """The inputs alone need more than there is. The message gives both."""


def require_memory_for_inputs(problem: AttentionProblem) -> None:
    """Raise `NotEnoughMemory` where the tensors of a CPU problem exceed the memory that is available.

    CUDA needs no such care: its allocator refuses. Linux promises more than it has, and kills later.
    """
    require_memory(problem, input_bytes(problem), "the inputs")


def require_memory(problem: AttentionProblem, num_bytes: int, what: str) -> None:
    """Raise `NotEnoughMemory` where something of a CPU problem exceeds the memory that is available."""
    available = available_bytes()
    if problem.device_type == "cpu" and available is not None and num_bytes > available:
        raise NotEnoughMemory(
            f"{what} need {num_bytes / 2**30:.1f} GiB, {available / 2**30:.1f} GiB are available"
        )


def input_bytes(problem: AttentionProblem) -> int:
    """Return the bytes of queries, keys and values as tensors, every sequence at full length."""
    tokens = problem.num_q_heads * problem.q_len + 2 * problem.num_kv_heads * problem.kv_len
    return problem.batch_size * tokens * problem.head_dim * problem.itemsize


def available_bytes() -> int | None:
    """Return the memory that the kernel says is available without swapping; None where it does not say."""
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
