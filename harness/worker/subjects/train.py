"""Training: a call is a forward and a backward pass, and all of its gradients are checked."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from gqabench.attention_impls import (
    AttentionImpl,
    AttentionInputs,
    AttentionProblem,
    PreparedAttention,
    TimedCall,
)
from gqabench.attention_impls.correctness.gradients import (
    TrainStep,
    head_problem,
    reference_step,
    train_budget,
)
from gqabench.attention_impls.cost import train_flops
from gqabench.attention_impls.inputs import Stream, make_inputs, make_queries, problem_normals
from gqabench.attention_impls.plugins.promises import as_prepared, declared_timed_call, stated_reasons
from gqabench.harness.worker.subjects.input_guard import InputGuard
from gqabench.harness.worker.subjects.subject import NUM_QUERY_VARIANTS, Check, Subject

_PASSES_PER_CHECK = 2 * NUM_QUERY_VARIANTS
"""A reference for each variant, and a pass of the plain formula for its error budget."""
_FEWEST_HEADS = 2


class TrainSubject(Subject):
    """Attention on new queries, and the gradients of queries, keys and values for a fixed one of the outputs.

    Gradients of different key/value heads do not mix, so where checking all heads of all sequences would cost
    more than `max_check_gflop`, a seeded choice of them is checked.
    """

    def __init__(self, problem: AttentionProblem, seed: int, max_check_gflop: float) -> None:
        self._problem = problem
        self._seed = seed
        with torch.inference_mode(False), torch.no_grad():
            inputs = make_inputs(problem, seed)
            self._inputs = AttentionInputs(*(x.requires_grad_() for x in (inputs.q, inputs.k, inputs.v)))
            self._grad_output = problem_normals(problem, tuple(inputs.q.shape), seed, Stream.GRAD_OUTPUT)
            self._queries = make_queries(problem, seed, NUM_QUERY_VARIANTS)
            self._heads = checked_heads(problem, seed, max_check_gflop)
            self._answers = [self._answers_of(variant) for variant in range(NUM_QUERY_VARIANTS)]
        self.guard = InputGuard([self._inputs.k.detach(), self._inputs.v.detach()], self._remake)
        self.error_budget = max(
            max(budget.max_errors.values()) for answers in self._answers for _, budget in answers
        )
        self.num_checked_queries = problem.q_len
        self.num_checked_heads = len(self._heads)

    def calling_mode(self) -> AbstractContextManager[Any]:
        return torch.enable_grad()

    def unsupported_reasons(self, impl: AttentionImpl) -> list[str]:
        reasons = stated_reasons(impl, self._problem)
        if not getattr(impl, "has_backward", False):
            reasons.append("workload=train: this implementation declares no backward pass")
        return reasons

    def prepare(self, impl: AttentionImpl) -> PreparedAttention:
        inputs = self._inputs
        prepared = as_prepared(impl.prepare(self._problem, inputs))

        def run() -> Any:
            output = prepared()
            dq, dk, dv = torch.autograd.grad(
                output, (inputs.q, inputs.k, inputs.v), self._grad_output, allow_unused=True
            )
            return TrainStep(output.detach(), dq, dk, dv)

        return replace(prepared, run=run)

    def timed_call(self, impl: AttentionImpl) -> TimedCall | None:
        return declared_timed_call(impl)

    def write_queries(self, variant: int) -> None:
        self.queries.copy_(self._queries[variant])

    @property
    def queries(self) -> torch.Tensor:
        return self._inputs.q.detach()

    def check(self, output: object, variant: int) -> Check:
        assert isinstance(output, TrainStep)
        if complaint := self._mismatch(output):
            return Check(None, None, complaint)
        errors = [
            budget.excess(output.of_head(*head, self._problem.group_size), reference)
            for head, (reference, budget) in zip(self._heads, self._answers[variant], strict=True)
        ]
        if not all(math.isfinite(error.max_error) for error in errors):
            return Check(None, None, "the output or a gradient holds NaN or infinity")
        worst = max(errors, key=lambda error: error.error_ratio)
        largest = max(error.max_error for error in errors)
        ratio = worst.error_ratio if math.isfinite(worst.error_ratio) else None
        if worst.error_ratio > 1:
            complaint = f"the error exceeds the budget {worst.error_ratio:.3g} times, by {worst.criterion}"
            return Check(largest, ratio, complaint)
        return Check(largest, ratio, None)

    def _mismatch(self, step: TrainStep) -> str | None:
        """Return what is wrong with a step's shapes or dtypes."""
        inputs = self._inputs
        expected = {"output": inputs.q, "dq": inputs.q, "dk": inputs.k, "dv": inputs.v}
        for name, like in expected.items():
            found = getattr(step, name)
            if found is None:
                return f"there is no {name}: autograd does not see how the output depends on its tensor"
            if found.shape != like.shape or found.dtype != like.dtype:
                wanted = f"{list(like.shape)} {like.dtype}"
                return f"{name} is {list(found.shape)} {found.dtype}, expected {wanted}"
        return None

    def _answers_of(self, variant: int) -> list[Any]:
        """Return the reference and budget of each checked head."""
        self.write_queries(variant)
        answers = []
        for sequence, kv_head in self._heads:
            problem = head_problem(self._problem, sequence)
            rows = slice(kv_head * problem.group_size, (kv_head + 1) * problem.group_size)
            one, head = slice(sequence, sequence + 1), slice(kv_head, kv_head + 1)
            inputs = AttentionInputs(
                self._inputs.q[one, rows], self._inputs.k[one, head], self._inputs.v[one, head]
            )
            grad_output = self._grad_output[one, rows]
            reference = reference_step(problem, inputs, grad_output)
            answers.append((reference, train_budget(problem, inputs, grad_output, reference)))
        return answers

    def _remake(self) -> list[torch.Tensor]:
        inputs = make_inputs(self._problem, self._seed)
        return [inputs.k, inputs.v]


def checked_heads(problem: AttentionProblem, seed: int, max_check_gflop: float) -> list[tuple[int, int]]:
    """Choose key/value heads to check, as (sequence, head): all if affordable, the last one always."""
    num_heads = problem.batch_size * problem.num_kv_heads
    flops_per_head = _PASSES_PER_CHECK * train_flops(problem) / num_heads
    num_checked = min(max(int(max_check_gflop * 1e9 / flops_per_head), _FEWEST_HEADS), num_heads)
    order = torch.randperm(num_heads - 1, generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = sorted([*order[: num_checked - 1], num_heads - 1])
    return [divmod(head, problem.num_kv_heads) for head in chosen]
