"""An ONNX model of one node, `com.microsoft.GroupQueryAttention`, built in memory for one problem.

The operator is described in docs/ContribOperators.md of ONNX Runtime. Caches are
`[batch_size, num_kv_heads, capacity, head_dim]`.
Past and present are bound to the same memory, so a call appends the new tokens and copies no cache.
"""

from __future__ import annotations

from typing import Any

from gqabench.attention_impls.problem import AttentionProblem

OPSET = 17
IR_VERSION = 10
INPUTS = ("query", "key", "value", "past_key", "past_value", "seqlens_k", "total_sequence_length")
QUERY_LENGTHS = "query_seqlens"
"""Input that lets several sequences append several tokens each to a filled cache (ONNX Runtime 1.32)."""
_UNUSED_BEFORE_QUERY_LENGTHS = ("",) * 9
_INT32 = ("seqlens_k", "total_sequence_length", QUERY_LENGTHS)
OUTPUTS = ("output", "present_key", "present_value")


def element_type(problem: AttentionProblem) -> int:
    """Return ONNX's number for the problem's dtype."""
    from onnx import TensorProto

    types = {
        "float32": TensorProto.FLOAT,
        "float16": TensorProto.FLOAT16,
        "bfloat16": TensorProto.BFLOAT16,
    }
    return int(types[problem.dtype])


def input_names(problem: AttentionProblem) -> tuple[str, ...]:
    """Return the inputs of a problem's model, in order."""
    return (*INPUTS, QUERY_LENGTHS) if needs_query_lengths(problem) else INPUTS


def needs_query_lengths(problem: AttentionProblem) -> bool:
    """Return whether several sequences append several tokens each to a filled cache."""
    return problem.batch_size > 1 and 1 < problem.q_len < problem.kv_len


def gqa_model(problem: AttentionProblem) -> bytes:
    """Build the model and serialise it."""
    from onnx import TensorProto, helper

    attributes: dict[str, Any] = {
        "num_heads": problem.num_q_heads,
        "kv_num_heads": problem.num_kv_heads,
        "scale": problem.scale,
    }
    if problem.window is not None:
        attributes["local_window_size"] = problem.window
    if problem.logits_soft_cap is not None:
        attributes["softcap"] = problem.logits_soft_cap
    shapes = tensor_shapes(problem)
    kind = element_type(problem)
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.INT32 if name in _INT32 else kind, shape)
        for name, shape in shapes.items()
    }
    names = input_names(problem)
    arguments = [*INPUTS, *_UNUSED_BEFORE_QUERY_LENGTHS, QUERY_LENGTHS] if names != INPUTS else [*INPUTS]
    node = helper.make_node(
        "GroupQueryAttention", arguments, list(OUTPUTS), domain="com.microsoft", **attributes
    )
    graph = helper.make_graph(
        [node], "gqa", [values[name] for name in names], [values[name] for name in OUTPUTS]
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    return bytes(model.SerializeToString())


def tensor_shapes(problem: AttentionProblem) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input and output; heads of new tokens are flattened."""
    q_width, kv_width = (heads * problem.head_dim for heads in (problem.num_q_heads, problem.num_kv_heads))
    new = (problem.batch_size, problem.q_len)
    cache = (problem.batch_size, problem.num_kv_heads, problem.kv_len, problem.head_dim)
    return {
        "query": (*new, q_width),
        "key": (*new, kv_width),
        "value": (*new, kv_width),
        "past_key": cache,
        "past_value": cache,
        "seqlens_k": (problem.batch_size,),
        "total_sequence_length": (),
        QUERY_LENGTHS: (problem.batch_size,),
        "output": (*new, q_width),
        "present_key": cache,
        "present_value": cache,
    }
