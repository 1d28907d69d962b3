"""Where a kernel runs: on a CUDA device, or step by step in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os

import torch

from attention_impls.abilities import device_reasons
from attention_impls.problem import AttentionProblem

INTERPRETED_PROCESSORS = 4
"""Processors that a schedule is made for in the interpreter: few, and enough to split what it must show."""


MOST_HEAD_DIM = 256
"""A row of the accumulator, float32, must fit into registers."""


def is_interpreted() -> bool:
    """Whether Triton interprets kernels, as `TRITON_INTERPRET=1` asks: right answers, and no speed at all."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0", "false", "False", "off", "no")


def num_processors(device: str) -> int:
    """Multiprocessors of a CUDA device."""
    if is_interpreted():
        return INTERPRETED_PROCESSORS
    return int(torch.cuda.get_device_properties(torch.device(device)).multi_processor_count)


def triton_reasons(problem: AttentionProblem) -> list[str]:
    """Why a Triton kernel cannot run here."""
    reasons = device_reasons(problem)
    if problem.device_type == "cpu" and not is_interpreted():
        reasons.append(f"device={problem.device}: needs a CUDA device (Triton has no compiler for this one)")
    if importlib.util.find_spec("triton") is None:
        reasons.append("package triton is not installed")
    return reasons


def most_head_dim_reasons(problem: AttentionProblem) -> list[str]:
    """Why heads are too wide for these kernels."""
    if problem.head_dim <= MOST_HEAD_DIM:
        return []
    return [f"head_dim={problem.head_dim}: these kernels hold at most {MOST_HEAD_DIM} columns"]
