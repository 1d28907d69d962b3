"""Seeded random inputs: the same seed gives the same contents on every device.

Normal values, never zeros: zero-filled tensors draw less power and run faster than real data.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch

from gqabench.attention_impls.contract import AttentionInputs
from gqabench.attention_impls.dtypes import torch_dtype
from gqabench.attention_impls.problem import AttentionProblem

BLOCK_LENGTH = 16_777_213
"""The largest prime below `2^24`. Longer tensors repeat a block of so many normals: drawing gigabytes would
take minutes. Since the length is prime, no stride between rows, heads or sequences is a multiple of it, and a
wrong index reads a different value."""


class Stream(IntEnum):
    """What a sequence of random numbers is for. Streams of one seed are independent of each other."""

    Q = 0
    K = 1
    V = 2
    QUERY_VARIANTS = 3
    HIDDEN = 4
    HIDDEN_VARIANTS = 5
    W_Q = 6
    W_K = 7
    W_V = 8
    W_O = 9
    GRAD_OUTPUT = 10


def make_inputs(problem: AttentionProblem, seed: int) -> AttentionInputs:
    """Draw standard normals in the problem's dtype and on its device.

    Keys and values beyond `kv_lens` are drawn too, so that an implementation that reads them is visibly
    wrong.
    """
    q_shape = (problem.batch_size, problem.num_q_heads, problem.q_len, problem.head_dim)
    kv_shape = (problem.batch_size, problem.num_kv_heads, problem.kv_len, problem.head_dim)
    return AttentionInputs(
        q=problem_normals(problem, q_shape, seed, Stream.Q),
        k=problem_normals(problem, kv_shape, seed, Stream.K),
        v=problem_normals(problem, kv_shape, seed, Stream.V),
    )


def make_queries(problem: AttentionProblem, seed: int, count: int) -> torch.Tensor:
    """Draw queries to write into `inputs.q` one after another.

    `[count, batch_size, num_q_heads, q_len, head_dim]`.
    """
    shape = (count, problem.batch_size, problem.num_q_heads, problem.q_len, problem.head_dim)
    return problem_normals(problem, shape, seed, Stream.QUERY_VARIANTS)


def problem_normals(
    problem: AttentionProblem, shape: tuple[int, ...], seed: int, stream: Stream
) -> torch.Tensor:
    """Draw standard normals of one stream, in the problem's dtype and on its device."""
    return block_normals(shape, seed * len(Stream) + stream, torch_dtype(problem), problem.device)


def block_normals(shape: tuple[int, ...], seed: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    """Draw standard normals from a seed; beyond `BLOCK_LENGTH` they repeat."""
    # Drawn on the CPU whatever the device, since generators of different devices give different numbers.
    generator = torch.Generator().manual_seed(seed)
    num_elements = math.prod(shape)
    block = torch.randn(min(num_elements, BLOCK_LENGTH), generator=generator)
    block = block.to(device, dtype)
    if num_elements <= BLOCK_LENGTH:
        return block.view(shape)
    values = torch.empty(num_elements, dtype=block.dtype, device=block.device)
    for start in range(0, num_elements, BLOCK_LENGTH):
        part = values[start : start + BLOCK_LENGTH]
        part.copy_(block[: len(part)])
    return values.view(shape)
