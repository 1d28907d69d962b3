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
    """Why `torch.compile` makes no code for the problem's device here."""
    if problem.device_type != "cpu":
        if is_installed("triton"):
            return []
        return ["torch.compile for CUDA makes Triton kernels, and triton is not installed"]
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return [f"torch.compile for a CPU makes C++: no C++ compiler {compiler} on PATH (CXX names another)"]
    return []


def compile_call(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], torch.Tensor], float]:
    """A call compiled as a whole for static shapes, and the milliseconds that compiling it took.

    Call it in the grad mode that it was compiled in (`torch.inference_mode()` or not), lest it compile anew.
    """
    # fullgraph: whatever cannot be compiled is an error, never run uncompiled instead.
    compiled = torch.compile(run, fullgraph=True, dynamic=False)
    with compiling() as compile_ms:
        compiled()
    return compiled, compile_ms()


@contextmanager
def compiling() -> Iterator[Callable[[], float]]:
    """Compile inside, for as many problems as there are; yields the milliseconds that it takes."""
    started = time.perf_counter()
    with torch._dynamo.config.patch(
        recompile_limit=MAX_COMPILED_PROBLEMS,
        accumulated_recompile_limit=MAX_COMPILED_PROBLEMS,
        automatic_dynamic_shapes=False,
    ):
        yield lambda: (time.perf_counter() - started) * 1e3
