"""How near `cpu_decode` comes to merely reading K and V. Run it on a quiet machine.

`python tests/benchmarks/cpu_decode_and_read.py [ROUNDS]`: in every round, in a random order and with emptied
caches, one call of the kernel and one plain read (`torch.sum` by rows) of the same K and V, over shapes of
`study=cpu_decode`. Prints both medians. A roof is the best moment of a large buffer; this is the same bytes
in the same moments, so it tells what the kernel loses apart from what the machine does.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run as a script, from anywhere

from gqabench.attention_impls import AttentionInputs, AttentionProblem, get_impl  # noqa: E402
from gqabench.harness.worker.timing.cache_flush import all_usable_caches_bytes  # noqa: E402

MOST_BYTES = 2 * 2**30
ROW = 65536
FLUSHES = 3
"""The buffer that empties the caches is so many times as large as they are."""


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 21
    flush = torch.randn(FLUSHES * all_usable_caches_bytes() // 4)
    print("kv heads  dtype     batch  kv_len      MB   kernel GB/s  read GB/s  kernel / read")
    for num_kv_heads in (8, 1, 32):
        for dtype in ("float32", "bfloat16"):
            for batch_size in (1, 8):
                for kv_len in (4096, 32768):
                    problem = AttentionProblem(
                        batch_size=batch_size, q_len=1, kv_len=kv_len, num_q_heads=32,
                        num_kv_heads=num_kv_heads, head_dim=128, dtype=dtype, device="cpu",
                    )  # fmt: skip
                    shape = (batch_size, num_kv_heads, kv_len, 128)
                    num_bytes = 2 * torch.Size(shape).numel() * getattr(torch, dtype).itemsize
                    if num_bytes > MOST_BYTES:
                        continue
                    kernel, read = (num_bytes / 1e9 / seconds for seconds in measure(problem, flush, rounds))
                    print(
                        f"{num_kv_heads:8}  {dtype:8}  {batch_size:5}  {kv_len:6}  {num_bytes / 1e6:6.0f}"
                        f"  {kernel:12.1f}  {read:9.1f}  {kernel / read:13.2f}",
                        flush=True,
                    )


def measure(problem: AttentionProblem, flush: torch.Tensor, rounds: int) -> tuple[float, float]:
    """Median seconds of a call of the kernel, and of reading K and V."""
    dtype = getattr(torch, problem.dtype)
    kv_shape = (problem.batch_size, problem.num_kv_heads, problem.kv_len, problem.head_dim)
    q = torch.randn(problem.batch_size, problem.num_q_heads, 1, problem.head_dim).to(dtype)
    k, v = (torch.randn(kv_shape).to(dtype) for _ in range(2))
    kernel = get_impl("cpu_decode").prepare(problem, AttentionInputs(q=q, k=k, v=v)).run
    rows = [tensor.view(torch.float32).reshape(-1, ROW) for tensor in (k, v)]

    def read() -> None:
        for part in rows:
            torch.sum(part, 1)

    calls = (kernel, read)
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for one in random.sample((0, 1), 2):
            torch.sum(flush)
            started = time.perf_counter()
            calls[one]()
            if turn > 0:  # the first warms up
                seconds[one].append(time.perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


if __name__ == "__main__":
    main()
