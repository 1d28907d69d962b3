"""The device of a kernel: a CUDA device, or Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os

import torch

from gqabench.attention_impls.abilities import device_reasons
from gqabench.attention_impls.problem import AttentionProblem

INTERPRETED_PROCESSORS = 4
"""Processors that a schedule assumes in the interpreter: few, but enough to split long sequences."""


FLOAT8_CAPABILITY = (8, 9)
"""Ada and Hopper are the first with instructions for E4M3."""

MOST_HEAD_DIM = 256
"""A row of the accumulator, float32, must fit into registers."""


def is_interpreted() -> bool:
    """Return whether `TRITON_INTERPRET=1` makes Triton interpret kernels: for correctness, not speed."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in (
        "1",
        "true",
        "on",
        "yes",
        "y",
    )  # as Triton reads it


def num_processors(device: str) -> int:
    """Return the number of multiprocessors of a CUDA device."""
    if is_interpreted():
        return INTERPRETED_PROCESSORS
    return int(torch.cuda.get_device_properties(torch.device(device)).multi_processor_count)


def triton_reasons(problem: AttentionProblem) -> list[str]:
    """Return why a Triton kernel cannot run here; empty means that it can."""
    reasons = device_reasons(problem)
    if problem.device_type == "cpu" and not is_interpreted():
        reasons.append(f"device={problem.device}: needs a CUDA device (Triton has no compiler for CPUs)")
    elif _lacks_float8(problem) and not reasons:
        major, minor = FLOAT8_CAPABILITY
        what = f"Triton supports it from compute capability {major}.{minor} on"
        reasons.append(f"kv_dtype={problem.kv_dtype}: {what}")
    if importlib.util.find_spec("triton") is None:
        reasons.append("package triton is not installed")
    return reasons


def _lacks_float8(problem: AttentionProblem) -> bool:
    """Return whether the cache is float8 and the GPU is too old for it."""
    if problem.kv_dtype != "float8_e4m3" or is_interpreted() or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(torch.device(problem.device)) < FLOAT8_CAPABILITY


def most_head_dim_reasons(problem: AttentionProblem) -> list[str]:
    """Return why heads are too wide for these kernels; empty means that they are not."""
    if problem.head_dim <= MOST_HEAD_DIM:
        return []
    return [f"head_dim={problem.head_dim}: these kernels hold at most {MOST_HEAD_DIM} columns"]
