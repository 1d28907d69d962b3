"""The ONNX standard's own test cases of its operator Attention, where an attention problem can express them.

From the package `onnx` (`onnx.backend.test.case.node.attention`), with its inputs, its outputs and its own
comparison. A case is mapped by what it means: which keys each query may see follows from the operator's
definition, and then a problem is looked for in which every query sees just these. What cannot be expressed
is skipped with the reason, and how many those are is tested.
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from gqabench.attention_impls import AttentionInputs, AttentionProblem, get_impl
from gqabench.attention_impls.parts.formulas.masks import visibility_mask

pytest.importorskip("onnx", reason="needs the package onnx, of the extra test")

PLAIN_IMPLS = (
    "reference", "repeat_kv", "repeat_kv_sdpa", "grouped_matmul", "blockwise", "paged_gather",
    "paged_grouped", "sliding_window", "folded_sdpa", "sdpa", "sdpa_flash", "sdpa_math",
)  # fmt: skip

VALUE_WIDTH = "values of another width than keys"
MASK_VALUES = "a mask that adds numbers to the logits, not only 0 and -inf"
MASK_OF_HEADS = "a mask that differs between heads"
NO_RANGE = "keys that no causal mask, window and lengths leave over"
MORE_QUERIES = "more queries than keys"
BLIND = "a sequence whose newest query sees no key"


class NotExpressed(Exception):
    """No attention problem means what the case means; the message is one of the reasons above."""


@dataclass(frozen=True)
class Case:
    """One case as the package defines it."""

    name: str
    attributes: dict[str, Any]
    inputs: dict[str, np.ndarray]
    output: np.ndarray
    other_outputs: tuple[str, ...]
    tolerance: tuple[float, float]
    """Relative and absolute"""


@cache
def cases() -> dict[str, Case]:
    """All cases of the operator itself; not those of its expansion into other operators."""
    import onnx
    import onnx.backend.test.case.node.attention
    from onnx.backend.test.case import node as node_cases

    found = {}
    # `collect_testcases` would build the cases of all operators, which takes a quarter of a minute.
    for case in node_cases._NodeTestCases:
        node = case.model.graph.node[0]
        if node.op_type != "Attention" or len(case.model.graph.node) != 1:
            continue
        inputs, outputs = case.data_sets[0]
        names = [name for name in node.input if name]
        found[case.name] = Case(
            case.name,
            {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute},
            dict(zip(names, inputs, strict=True)),
            outputs[0],
            tuple(name for name in node.output[1:] if name),
            (case.rtol, case.atol),
        )
    return found


def heads_first(case: Case, name: str) -> np.ndarray:
    """Q, K or V as `[batch, heads, tokens, width]`; K and V with the past in front."""
    x = case.inputs[name]
    if x.ndim == 3:
        num_heads = case.attributes["q_num_heads" if name == "Q" else "kv_num_heads"]
        x = x.reshape(*x.shape[:2], num_heads, -1).transpose(0, 2, 1, 3)
    past = case.inputs.get({"K": "past_key", "V": "past_value"}.get(name, ""))
    return x if past is None else np.concatenate([past, x], axis=2)


def visible_keys(case: Case) -> np.ndarray:
    """Boolean `[batch, q_len, kv_len]`: what the operator's definition lets each query see.

    Query `i` stands at `i + offset`, where the offset is the length of the past, or the number of keys that
    are no padding less the number of queries; without either it is 0, that is, aligned upper-left.
    """
    q, k = heads_first(case, "Q"), heads_first(case, "K")
    batch_size, (q_len, kv_len) = q.shape[0], (q.shape[2], k.shape[2])
    lengths = case.inputs.get("nonpad_kv_seqlen")
    if lengths is not None:
        offset = lengths.reshape(-1, 1, 1) - q_len
    else:
        past = case.inputs.get("past_key")
        offset = np.full((batch_size, 1, 1), 0 if past is None else past.shape[2])
    positions, keys = np.arange(q_len).reshape(1, -1, 1) + offset, np.arange(kv_len).reshape(1, 1, -1)
    visible = np.ones((batch_size, q_len, kv_len), dtype=bool)
    if case.attributes.get("is_causal"):
        visible &= keys <= positions
    if (left := case.attributes.get("left_window_size", -1)) >= 0:
        visible &= keys >= positions - left
    if (right := case.attributes.get("right_window_size", -1)) >= 0:
        visible &= keys <= positions + right
    if lengths is not None:
        visible &= keys < lengths.reshape(-1, 1, 1)
    return visible & visible_by_mask(case, q.shape[1], kv_len)


def visible_by_mask(case: Case, num_heads: int, kv_len: int) -> np.ndarray:
    """What `attn_mask` leaves visible, where all heads agree; keys beyond its end are hidden."""
    mask = case.inputs.get("attn_mask")
    if mask is None:
        return np.ones(1, dtype=bool)
    if mask.dtype != bool:
        mask = mask.astype(np.float32)
        if not np.isin(mask, (0, -np.inf)).all():
            raise NotExpressed(MASK_VALUES)
        mask = mask == 0
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    mask = np.pad(mask, [(0, 0)] * 3 + [(0, kv_len - mask.shape[-1])])
    if not (mask == mask[:, :1]).all():
        raise NotExpressed(MASK_OF_HEADS)
    return mask[:, 0]


def problem_of(case: Case) -> AttentionProblem:
    """The problem in which every query sees what it sees in the case. Raises `NotExpressed`."""
    q, k, v = (heads_first(case, name) for name in "QKV")
    if v.shape[3] != k.shape[3]:
        raise NotExpressed(VALUE_WIDTH)
    visible = visible_keys(case)
    if not visible[:, -1].any(axis=-1).all():
        raise NotExpressed(BLIND)
    # Keys that no query sees do not exist in the problem: what is last seen is the end of a sequence.
    lengths = tuple(int(np.flatnonzero(rows.any(axis=0))[-1]) + 1 for rows in visible)
    kv_len = max(*lengths, q.shape[2])
    if kv_len > k.shape[2]:
        raise NotExpressed(MORE_QUERIES)
    plain = AttentionProblem(
        batch_size=q.shape[0],
        q_len=q.shape[2],
        kv_len=kv_len,
        num_q_heads=q.shape[1],
        num_kv_heads=k.shape[1],
        head_dim=q.shape[3],
        dtype=q.dtype.name,
        device="cpu",
        causal=False,
        softmax_scale=case.attributes.get("scale"),
        logits_soft_cap=case.attributes.get("softcap") or None,
        kv_lens=lengths,
    )
    causal = replace(plain, causal=True)
    windowed = (replace(causal, window=window) for window in range(1, kv_len))
    for problem in (plain, causal, *windowed):
        if (seen_in(problem) == visible[:, :, :kv_len]).all():
            return problem
    raise NotExpressed(NO_RANGE)


def seen_in(problem: AttentionProblem) -> np.ndarray:
    mask = visibility_mask(problem)
    shape = (problem.batch_size, problem.q_len, problem.kv_len)
    return np.ones(shape, dtype=bool) if mask is None else mask[:, 0].expand(shape).numpy()


def as_tensor(x: np.ndarray) -> torch.Tensor:
    """NumPy has no bfloat16 of its own, from which PyTorch could take it."""
    bits = np.ascontiguousarray(x)
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(bits)


def as_array(x: torch.Tensor, like: np.ndarray) -> np.ndarray:
    x = x.contiguous()
    return x.view(torch.int16).numpy().view(like.dtype) if x.dtype == torch.bfloat16 else x.numpy()


def reason_of(name: str) -> str | None:
    """Why a case is not expressed; None where it is."""
    try:
        problem_of(cases()[name])
    except NotExpressed as reason:
        return str(reason)
    return None


def run(name: str, problem: AttentionProblem, case: Case) -> np.ndarray:
    """The output of an implementation in the layout and dtype of the case.

    Cases in float16 are computed in float32 and rounded: what they expect was itself computed in float16, and
    is as far from the exact answer as the tolerance allows (0.00098 of 0.001), so that no room is left.
    """
    q, k, v = (as_tensor(heads_first(case, part)) for part in "QKV")
    if problem.dtype == "float16":
        problem = replace(problem, dtype="float32")
        q, k, v = (x.float() for x in (q, k, v))
    inputs = AttentionInputs(q, *(x[:, :, : problem.kv_len].contiguous() for x in (k, v)))
    with torch.inference_mode():
        output = get_impl(name).prepare(problem, inputs)()
    if case.inputs["Q"].ndim == 3:
        output = output.transpose(1, 2).flatten(2)
    return as_array(output.to(as_tensor(case.output).dtype), case.output)


def require_same(output: np.ndarray, case: Case) -> None:
    """The package's own comparison, with the tolerance of the case."""
    from onnx.backend.test.runner import Runner

    Runner.assert_similar_outputs([case.output], [output], *case.tolerance)


@pytest.mark.parametrize("case_name", cases())
def test_a_case_that_can_be_expressed_passes(case_name):
    case = cases()[case_name]
    if (reason := reason_of(case_name)) is not None:
        pytest.skip(f"not expressed: {reason}")
    problem = problem_of(case)
    served = [name for name in PLAIN_IMPLS if not get_impl(name).unsupported_reasons(problem)]
    assert {"reference", "repeat_kv", "grouped_matmul", "blockwise", "paged_grouped"} <= set(served)
    for name in served:
        require_same(run(name, problem, case), case)


def test_what_is_expressed_and_what_is_not_and_why():
    """Of onnx 1.23; a later version may have more cases, and each has one of the reasons or none."""
    counts = Counter(reason_of(name) for name in cases())
    expected = {None: 36, VALUE_WIDTH: 17, MASK_VALUES: 32, NO_RANGE: 7, BLIND: 1}
    assert counts.keys() <= {*expected, MASK_OF_HEADS, MORE_QUERIES}
    assert all(counts[reason] >= count for reason, count in expected.items()), counts
    # Logits and the like are no output of an implementation, and the past is the caller's own: of these
    # cases the attention's output alone is compared.
    assert {name for name, case in cases().items() if case.other_outputs and reason_of(name) is None} >= {
        "test_attention_4d_with_qk_matmul",
        "test_attention_4d_causal_with_past_and_present",
    }


@pytest.mark.parametrize(
    ("case_name", "changes"),
    [
        pytest.param("test_attention_4d_gqa_causal", {"kv_len": 6}, id="aligned bottom-right"),
        pytest.param("test_attention_4d_gqa_causal", {"causal": False}, id="not causal"),
        pytest.param("test_attention_local_window", {"window": 2}, id="a narrower window"),
        pytest.param("test_attention_local_window", {"window": 4}, id="a wider window"),
        pytest.param("test_attention_4d_gqa_softcap", {"logits_soft_cap": None}, id="no soft cap"),
        pytest.param("test_attention_4d_gqa_scaled", {"softmax_scale": None}, id="no scale"),
        pytest.param("test_attention_4d_causal_nonpad_batch_prefill", {"kv_lens": None}, id="no lengths"),
    ],
)
def test_a_case_is_not_passed_by_another_problem(case_name, changes):
    case = cases()[case_name]
    problem = replace(problem_of(case), **{"kv_lens": None} | changes if "kv_len" in changes else changes)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        require_same(run("reference", problem, case), case)


def test_the_alignment_without_a_past_is_upper_left_and_with_lengths_bottom_right():
    square = problem_of(cases()["test_attention_4d_causal"])
    assert (square.q_len, square.kv_len, square.causal) == (4, 4, True)  # of 6 keys the last 2 are not seen
    decode = problem_of(cases()["test_attention_4d_gqa_causal_nonpad_decode"])
    assert decode.q_len == 1
    assert decode.group_size == 2
    assert (
        list(decode.kv_lens)
        == cases()["test_attention_4d_gqa_causal_nonpad_decode"].inputs["nonpad_kv_seqlen"].tolist()
    )
