"""The gradients by formula against autograd, and what their budget lets pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from gqabench.attention_impls import AttentionInputs, AttentionProblem, get_impl
from gqabench.attention_impls.correctness.gradients import TrainStep, reference_step, train_budget
from gqabench.attention_impls.inputs import Stream, make_inputs, problem_normals
from gqabench.attention_impls.parts.formulas.expansion import expand_kv
from gqabench.attention_impls.parts.formulas.masks import visibility_mask

WITH_BACKWARD = ("repeat_kv", "repeat_kv_sdpa", "grouped_matmul", "sdpa", "sdpa_flash", "sdpa_math")


def train_problem(**changes: Any) -> AttentionProblem:
    values: dict[str, Any] = {
        "batch_size": 2, "q_len": 37, "kv_len": 37, "num_q_heads": 6, "num_kv_heads": 2, "head_dim": 16,
        "dtype": "float32", "device": "cpu",
    }  # fmt: skip
    return AttentionProblem(**values | changes)


def make_case(problem: AttentionProblem) -> tuple[AttentionInputs, torch.Tensor]:
    inputs = make_inputs(problem, seed=3)
    return inputs, problem_normals(problem, tuple(inputs.q.shape), 3, Stream.GRAD_OUTPUT)


def by_autograd(
    attend: Callable[[AttentionInputs], torch.Tensor], inputs: AttentionInputs, grad_output: torch.Tensor
) -> TrainStep:
    leaves = [x.clone().requires_grad_() for x in (inputs.q, inputs.k, inputs.v)]
    output = attend(AttentionInputs(*leaves))
    return TrainStep(output.detach(), *torch.autograd.grad(output, leaves, grad_output))


def plain_attention(problem: AttentionProblem, inputs: AttentionInputs) -> torch.Tensor:
    """The formula as one would write it down, whatever its cost."""
    k, v = expand_kv(inputs.k, problem.group_size), expand_kv(inputs.v, problem.group_size)
    logits = inputs.q @ k.mT * problem.scale
    if problem.logits_soft_cap is not None:
        logits = problem.logits_soft_cap * torch.tanh(logits / problem.logits_soft_cap)
    visible = visibility_mask(problem)
    if visible is not None:
        logits = logits.masked_fill(~visible, float("-inf"))
    return torch.softmax(logits, dim=-1) @ v


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"causal": False},
        {"window": 5},
        {"logits_soft_cap": 1.5},
        {"num_kv_heads": 6},
        {"num_kv_heads": 1},
    ],
    ids=str,
)
def test_the_formula_is_what_autograd_finds(changes: dict[str, Any]) -> None:
    problem = train_problem(**changes)
    inputs, grad_output = make_case(problem)
    exact = AttentionInputs(inputs.q.double(), inputs.k.double(), inputs.v.double())
    expected = by_autograd(lambda given: plain_attention(problem, given), exact, grad_output.double())
    step = reference_step(problem, inputs, grad_output)
    for name in ("output", "dq", "dk", "dv"):
        torch.testing.assert_close(getattr(step, name), getattr(expected, name), rtol=1e-10, atol=1e-12)


def test_one_key_has_no_gradient_of_queries_and_keys() -> None:
    problem = train_problem(q_len=1, kv_len=1)
    inputs, grad_output = make_case(problem)
    step = reference_step(problem, inputs, grad_output)
    assert not step.dq.any() and not step.dk.any()
    # dv sums the outputs' gradients over the heads of each group.
    torch.testing.assert_close(step.dv, grad_output.double().view(2, 2, 3, 1, 16).sum(2))


@pytest.mark.parametrize("impl", WITH_BACKWARD)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"q_len": 1, "kv_len": 1},
        {"window": 9},
        {"softmax_scale": 1.0},
        {"num_kv_heads": 1, "causal": False},
    ],
    ids=str,
)
def test_implementations_keep_to_the_budget(impl: str, dtype: str, changes: dict[str, Any]) -> None:
    problem = train_problem(dtype=dtype, **changes)
    implementation = get_impl(impl)
    if reasons := implementation.unsupported_reasons(problem):
        assert "scaled_dot_product" in reasons[0] or "SDPA" in reasons[0], reasons
        return
    inputs, grad_output = make_case(problem)
    step = by_autograd(lambda given: implementation.prepare(problem, given)(), inputs, grad_output)
    reference = reference_step(problem, inputs, grad_output)
    assert train_budget(problem, inputs, grad_output, reference).excess(step, reference).error_ratio < 0.9


WRONG: dict[str, Callable[[TrainStep], TrainStep]] = {
    "dq 10 % too large": lambda step: replace(step, dq=step.dq * 1.1),
    "dk 10 % too large": lambda step: replace(step, dk=step.dk * 1.1),
    "dv 10 % too large": lambda step: replace(step, dv=step.dv * 1.1),
    "dk of one query head too few": lambda step: replace(step, dk=step.dk * 2 / 3),
    "KV heads exchanged": lambda step: replace(step, dk=step.dk.flip(1)),
    "the last token has no dv": lambda step: replace(step, dv=_without_row(step.dv, -1)),
    "the first key has no dk": lambda step: replace(step, dk=_without_row(step.dk, 0)),
    "the last query has no dq": lambda step: replace(step, dq=_without_row(step.dq, -1)),
    "no output": lambda step: replace(step, output=torch.zeros_like(step.output)),
    "NaN in dq": lambda step: replace(step, dq=step.dq * float("nan")),
}


def _without_row(values: torch.Tensor, row: int) -> torch.Tensor:
    values = values.clone()
    values[:, :, row] = 0
    return values


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_gradients_exceed_it(mistake: str, dtype: str) -> None:
    problem = train_problem(dtype=dtype, q_len=128, kv_len=128)
    inputs, grad_output = make_case(problem)
    step = by_autograd(lambda given: get_impl("repeat_kv").prepare(problem, given)(), inputs, grad_output)
    reference = reference_step(problem, inputs, grad_output)
    budget = train_budget(problem, inputs, grad_output, reference)
    assert budget.excess(step, reference).error_ratio < 0.9
    error = budget.excess(WRONG[mistake](step), reference)
    assert not error.error_ratio <= 1, error
