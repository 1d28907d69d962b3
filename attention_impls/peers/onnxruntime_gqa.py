"""ONNX Runtime's `GroupQueryAttention`, on a CPU and on CUDA.

Shape suffixes: B batch, H query heads, G key/value heads, L new tokens, K kv_len, D head_dim.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from gqabench.attention_impls.abilities import device_reasons, plain_cache_reasons
from gqabench.attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from gqabench.attention_impls.parts.calls.onnx_gqa_model import (
    QUERY_LENGTHS,
    element_type,
    gqa_model,
    input_names,
    needs_query_lengths,
    tensor_shapes,
)
from gqabench.attention_impls.parts.calls.packages import package_reasons
from gqabench.attention_impls.problem import AttentionProblem

if TYPE_CHECKING:
    import onnxruntime

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"


class OnnxruntimeGqa(AttentionImpl):
    """The operator, which appends to its cache within the call, as its decoders use it.

    Inputs and outputs are torch's memory, bound once. It gets as many threads as torch has, which stop
    spinning when a call ends, so that they do not disturb what is measured next.
    """

    name = "onnxruntime_gqa"
    extras = ("onnxruntime", "onnxruntime-gpu")
    reads_cache_in_place = False
    allocates_outside_torch = True
    timed_call = TimedCall(cache_append=True)

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        reasons = [*device_reasons(problem), *plain_cache_reasons(problem), *_operator_reasons(problem)]
        missing = [
            reason
            for package in ("onnx", "onnxruntime")
            for reason in package_reasons(package, _extra(problem))
        ]
        return [*reasons, *(missing or _provider_reasons(problem))]

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        session = _session(problem)
        tensors = _tensors(problem, inputs)
        binding = session.io_binding()
        _bind(binding, problem, tensors)
        options = _run_options(problem)
        q_BLHD = tensors["query"].view(problem.batch_size, problem.q_len, problem.num_q_heads, -1)
        output_BHLD = tensors["output"].view(q_BLHD.shape).transpose(1, 2)
        needs_copy = tensors["query"].data_ptr() != inputs.q.data_ptr()

        def run() -> torch.Tensor:
            if needs_copy:
                q_BLHD.copy_(inputs.q.transpose(1, 2))
            session.run_with_iobinding(binding, options)
            return output_BHLD

        return PreparedAttention(
            _keeping(run, tensors), tensors["past_key"].nbytes + tensors["past_value"].nbytes
        )


def _keeping(run: Callable[[], torch.Tensor], tensors: dict[str, torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Return the same call, which also keeps the tensors alive whose addresses are bound."""

    def run_with_tensors(_tensors: dict[str, torch.Tensor] = tensors) -> torch.Tensor:
        return run()

    return run_with_tensors


def _extra(problem: AttentionProblem) -> str:
    return "onnxruntime" if problem.device_type == "cpu" else "onnxruntime-gpu"


def _operator_reasons(problem: AttentionProblem) -> list[str]:
    """Return why the operator cannot compute a problem: its new tokens are the last ones, and causal."""
    reasons = []
    if problem.head_dim % 8:
        reasons.append(f"head_dim={problem.head_dim}: GroupQueryAttention needs a multiple of 8")
    if problem.q_len > 1 and not problem.causal and problem.window is None:
        reasons.append("causal=False: GroupQueryAttention with a cache is causal")
    shortest = min(problem.kv_lens or (problem.kv_len,))
    if shortest < problem.q_len:
        reasons.append(
            f"kv_lens={list(problem.kv_lens or ())}: GroupQueryAttention counts the new tokens among those"
            f" of their sequence, so none may be shorter than q_len={problem.q_len}"
        )
    return reasons


def _provider_reasons(problem: AttentionProblem) -> list[str]:
    """Return why no execution provider computes the problem; imports ONNX Runtime only if needed."""
    provider = _CPU if problem.device_type == "cpu" else _CUDA
    unknown = {_CPU: "bfloat16", _CUDA: "float32"}[provider]
    if problem.dtype == unknown:
        return [f"dtype={unknown}: GroupQueryAttention of the {provider} has no kernel for it"]
    if provider == _CPU and not needs_query_lengths(problem):
        return []
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        return [f"device={problem.device}: ONNX Runtime {onnxruntime.__version__} has no {provider} here"]
    if needs_query_lengths(problem) and not _knows_query_lengths():
        return [
            f"batch_size={problem.batch_size}: GroupQueryAttention of ONNX Runtime {onnxruntime.__version__}"
            " extends one sequence at a time; 1.32 extends several"
        ]
    return []


@cache
def _knows_query_lengths() -> bool:
    """Return whether this ONNX Runtime's operator has the input, according to its schema."""
    from onnxruntime.capi import onnxruntime_pybind11_state

    return any(
        argument.name == QUERY_LENGTHS
        for schema in onnxruntime_pybind11_state.get_all_operator_schema()
        if schema.name == "GroupQueryAttention"
        for argument in schema.inputs
    )


def _session(problem: AttentionProblem) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    providers: list[Any] = [_CPU]
    if problem.device_type == "cuda":
        device = torch.device(problem.device)
        stream = str(torch.cuda.current_stream(device).cuda_stream)
        providers = [(_CUDA, {"device_id": str(device.index or 0), "user_compute_stream": stream})]
        # Without this a node that CUDA cannot run would run on the CPU instead.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return onnxruntime.InferenceSession(gqa_model(problem), options, providers=providers)


def _run_options(problem: AttentionProblem) -> onnxruntime.RunOptions:
    import onnxruntime

    options = onnxruntime.RunOptions()
    if problem.device_type == "cuda":  # the caller waits for the stream, as for every other implementation
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


def _tensors(problem: AttentionProblem, inputs: AttentionInputs) -> dict[str, torch.Tensor]:
    """Return what is bound: the inputs in the operator's layouts, with a cache and an output of its own."""
    shapes = tensor_shapes(problem)
    lengths_B = [problem.kv_len_of(b) for b in range(problem.batch_size)]

    def newest(kv_BGKD: torch.Tensor) -> torch.Tensor:
        rows = [kv_BGKD[b, :, end - problem.q_len : end] for b, end in enumerate(lengths_B)]
        return torch.stack(rows).transpose(1, 2).reshape(shapes["key"])

    is_one_token = problem.q_len == 1  # then both layouts of the queries are the same memory
    return {
        "query": inputs.q.view(shapes["query"]) if is_one_token else inputs.q.new_empty(shapes["query"]),
        "key": newest(inputs.k),
        "value": newest(inputs.v),
        "past_key": inputs.k.clone(memory_format=torch.contiguous_format),
        "past_value": inputs.v.clone(memory_format=torch.contiguous_format),
        "seqlens_k": torch.tensor(lengths_B, dtype=torch.int32, device=problem.device) - 1,
        "total_sequence_length": torch.tensor(max(lengths_B), dtype=torch.int32),
        QUERY_LENGTHS: torch.full(
            shapes[QUERY_LENGTHS], problem.q_len, dtype=torch.int32, device=problem.device
        ),
        "output": inputs.q.new_empty(shapes["output"]),
    }


def _bind(
    binding: onnxruntime.IOBinding, problem: AttentionProblem, tensors: dict[str, torch.Tensor]
) -> None:
    import numpy as np

    def place(name: str) -> tuple[str, int, Any, list[int], int]:
        tensor = tensors[name]
        kind: Any = np.int32 if tensor.dtype == torch.int32 else element_type(problem)
        return tensor.device.type, tensor.device.index or 0, kind, list(tensor.shape), tensor.data_ptr()

    for name in input_names(problem):
        binding.bind_input(name, *place(name))
    binding.bind_output("output", *place("output"))
    binding.bind_output("present_key", *place("past_key"))
    binding.bind_output("present_value", *place("past_value"))
