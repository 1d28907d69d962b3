"""Our C++ kernel for CPUs: grouped-query decode at memory bandwidth."""

from __future__ import annotations

import ctypes

import torch
from torch import library

from gqabench.attention_impls.abilities import unpaged_reasons
from gqabench.attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from gqabench.attention_impls.kernels.cpu_decode.arguments import Call
from gqabench.attention_impls.kernels.cpu_decode.build import CannotBuild, Kernel, load_kernel
from gqabench.attention_impls.kernels.cpu_decode.plan import Plan
from gqabench.attention_impls.parts.caches.contiguous import ContiguousCache
from gqabench.attention_impls.problem import AttentionProblem

_TYPES = {"float32": "Float32", "float16": "Float16", "bfloat16": "Bfloat16", "int8": "Int8"}
"""By dtype and kv_dtype: the types of vectors.h."""

_library = library.Library("gqabench", "FRAGMENT")
_library.define("cpu_decode(Tensor q, Tensor(a!) output, Tensor(b!) workspace, int kernel, int call) -> ()")


def _attend(q: torch.Tensor, output: torch.Tensor, workspace: torch.Tensor, kernel: int, call: int) -> None:
    """Run the kernel, as an operator, so that profiles show it. `kernel` and `call` are addresses."""
    _Attend(kernel)(call, output.data_ptr(), workspace.data_ptr())


_Attend = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
_library.impl("cpu_decode", _attend, "CPU")


class CpuDecode(AttentionImpl):
    """Split-KV attention: K and V are read in place, once for up to 64 rows (a group times the new tokens).

    It uses as many threads as PyTorch has when it is prepared.

    The rows of a group share every key and value that is loaded. Blocks of keys are prefetched and widened to
    float32 in registers; nothing is expanded, converted or dequantised in memory. Long heads are split into
    chunks whose partial results are merged in a fixed order, so outputs are the same from run to run.

    Workspace is bounded by the head's width, the rows and the number of threads, whatever `kv_len` is:
    `Plan.workspace_floats`.
    """

    name = "cpu_decode"
    devices = ("cpu",)
    promised_operators = ("gqabench::cpu_decode",)
    timed_call = TimedCall()

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        if problem.device_type != "cpu":
            return [f"device={problem.device}: this kernel runs on CPUs only"]
        reasons = unpaged_reasons(problem)
        if problem.kv_dtype not in (None, "int8"):
            reasons.append(f"kv_dtype={problem.kv_dtype}: this kernel reads a cache in dtype, or in int8")
        if reasons:
            return reasons
        try:
            _kernel_for(problem)
        except CannotBuild as error:
            return [str(error)]
        return []

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        kernel = _kernel_for(problem)
        num_threads = torch.get_num_threads()
        plan = Plan.of(problem, num_threads)
        cache = ContiguousCache.of(problem, inputs)
        q = inputs.q if inputs.q.is_contiguous() else inputs.q.contiguous()
        call = Call(problem, plan, q, cache, num_threads)
        attend = torch.ops.gqabench.cpu_decode.default

        def run() -> torch.Tensor:
            if q is not inputs.q:
                q.copy_(inputs.q)
            output = torch.empty_like(q)
            workspace = torch.empty(plan.workspace_floats, dtype=torch.float32)
            attend(q, output, workspace, kernel.address, call.address)
            return output

        return PreparedAttention(run, cache.nbytes, compile_ms=kernel.take_compile_ms())


def _kernel_for(problem: AttentionProblem) -> Kernel:
    """Return the kernel for a problem's dtypes. Raises `CannotBuild`."""
    return load_kernel(_TYPES[problem.dtype], _TYPES[problem.kv_dtype or problem.dtype])
