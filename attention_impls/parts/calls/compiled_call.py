"""Calls compiled by `torch.compile` for the static shapes of one problem."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from gqabench.attention_impls.parts.calls.packages import is_installed
from gqabench.attention_impls.problem import AttentionProblem

MAX_COMPILED_PROBLEMS = 1024
"""Problems that one process may compile. By default `torch.compile` stops at 8 variants of one function. That
suits functions whose arguments vary; here each variant is a problem of its own."""


def compiler_reasons(problem: AttentionProblem) -> list[str]:
    """Return why `torch.compile` cannot generate code for the problem's device here."""
    if problem.device_type != "cpu":
        if is_installed("triton"):
            return []
        return ["torch.compile generates Triton kernels for CUDA, and triton is not installed"]
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return [f"torch.compile generates C++ for a CPU: no C++ compiler {compiler} on PATH (set CXX)"]
    return []


def compile_call(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], torch.Tensor], float]:
    """Compile a call as a whole for static shapes; return it and the milliseconds that compiling took.

    Call it in the grad mode that it was compiled in (`torch.inference_mode()` or not), or it compiles again.
    """
    # fullgraph: what cannot be compiled is an error, and never runs uncompiled instead.
    compiled = torch.compile(run, fullgraph=True, dynamic=False)
    with compiling() as compile_ms:
        compiled()
    return compiled, compile_ms()


@contextmanager
def compiling() -> Iterator[Callable[[], float]]:
    """Lift the limit of compiled problems inside; yield a function that returns the milliseconds so far."""
    started = time.perf_counter()
    with torch._dynamo.config.patch(
        recompile_limit=MAX_COMPILED_PROBLEMS,
        accumulated_recompile_limit=MAX_COMPILED_PROBLEMS,
        automatic_dynamic_shapes=False,
    ):
        yield lambda: (time.perf_counter() - started) * 1e3
