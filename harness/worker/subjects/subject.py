"""What is called and checked: an attention problem, or a whole layer around it.

Both offer new queries to each call and know the float64 answer for them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from gqabench.attention_impls import AttentionImpl, AttentionProblem, PreparedAttention, TimedCall
from gqabench.attention_impls.correctness.error_budget import ErrorBudget, error_budget
from gqabench.attention_impls.correctness.reference import quantisation_error, reference_attention
from gqabench.attention_impls.cost import model_flops
from gqabench.attention_impls.inputs import make_inputs, make_queries
from gqabench.attention_impls.models.layer import (
    layer_error_budget,
    layer_reference,
    layer_timed_call,
    layer_unsupported_reasons,
    make_hidden_states,
    make_layer_inputs,
    prepare_layer,
)
from gqabench.attention_impls.plugins.promises import as_prepared, declared_timed_call, stated_reasons
from gqabench.harness.worker.subjects.input_guard import InputGuard

NUM_TIMED_VARIANTS = 2
"""Timed calls alternate between these queries, so that an output kept from the call before is wrong."""

UNSEEN_VARIANT = 2
"""Queries that an implementation meets after timing for the first time, so that no output can be kept."""

NUM_QUERY_VARIANTS = 3

_MIN_CHECKED_QUERIES = 16


@dataclass(frozen=True)
class Check:
    """An output, checked against the reference."""

    max_error: float | None
    """None where there is no finite number to give: a wrong shape, NaN or infinity."""
    error_ratio: float | None
    """The error over what is allowed, by the criterion that it comes closest to."""
    complaint: str | None
    """What is wrong with the output; None when it is correct."""

    @property
    def is_correct(self) -> bool:
        return self.complaint is None


@dataclass(frozen=True)
class Prefill:
    """What computing the context took; None where a subject has no prefill of its own."""

    ms: float | None = None
    samples_ms: list[float] | None = None
    peak_workspace_bytes: int | None = None


class UnsupportedProblem(Exception):
    """A problem that cannot be computed here, or not by an implementation; the message says why."""


class Subject(ABC):
    """One problem with its inputs and its answers."""

    guard: InputGuard
    error_budget: float
    """The largest error that counts as correct"""
    num_checked_queries: int
    """Query positions of a sequence that have a reference"""
    num_checked_heads: int | None = None
    """Training: key/value heads, over all sequences, that have a reference"""
    quantisation_error: float | None = None
    """Largest difference that a quantised cache makes to the exact answer; None without one"""
    weight_bytes: int = 0
    """What the subject holds for all calls beside queries, keys and values"""

    @abstractmethod
    def check(self, output: object, variant: int) -> Check:
        """Check an output against the reference of the variant that it was computed from."""

    def calling_mode(self) -> AbstractContextManager[Any]:
        """Return the grad mode that implementations are prepared and called in."""
        return torch.inference_mode()

    @abstractmethod
    def unsupported_reasons(self, impl: AttentionImpl) -> list[str]:
        """Return why an implementation cannot compute this problem; empty means that it can."""

    @abstractmethod
    def prepare(self, impl: AttentionImpl) -> PreparedAttention:
        """Set an implementation up for this problem."""

    @abstractmethod
    def timed_call(self, impl: AttentionImpl) -> TimedCall | None:
        """Return what a call contains, as the implementation declares it; None where it does not say."""

    @abstractmethod
    def write_queries(self, variant: int) -> None:
        """Write one of the query variants into the inputs, in place."""

    @property
    @abstractmethod
    def queries(self) -> torch.Tensor:
        """What `write_queries` writes into, contiguous."""

    def write_fresh_queries(self, call: int) -> None:
        """Write queries that no earlier call had: a variant's values, each moved on by a place more.

        An implementation that remembers outputs by the contents of queries finds none of them.
        """
        self.write_queries(call % NUM_TIMED_VARIANTS)
        moved = self.queries.view(-1).roll(call // NUM_TIMED_VARIANTS + 1)
        self.queries.copy_(moved.view_as(self.queries))

    def measure_prefill(self, prepared: PreparedAttention) -> Prefill:
        """Measure the prefill of an implementation that is correct, where the subject has one."""
        return Prefill()

    def get_ready_to_profile(self) -> None:
        """Hold state as a decoder holds it between calls: the memory of the next call is measured."""
        return


class ForwardSubject(Subject):
    """A subject whose calls return one tensor, which is checked row by row."""

    def __init__(
        self,
        references: list[torch.Tensor],
        budgets: list[ErrorBudget],
        query_rows: torch.Tensor | None,
        output_shape: tuple[int, ...],
        output_dtype: torch.dtype,
        guard: InputGuard,
    ) -> None:
        self._references = references
        self._query_rows = query_rows
        self._output_shape = output_shape
        self._output_dtype = output_dtype
        self.guard = guard
        self._budgets = budgets
        self.error_budget = max(budget.max_error for budget in budgets)
        self.num_checked_queries = references[0].shape[-2]

    def check(self, output: object, variant: int) -> Check:
        if not isinstance(output, torch.Tensor):
            return Check(None, None, f"the output is {type(output).__name__}, not a tensor")
        if tuple(output.shape) != self._output_shape or output.dtype != self._output_dtype:
            expected = f"{list(self._output_shape)} {self._output_dtype}"
            return Check(
                None, None, f"the output is {list(output.shape)} {output.dtype}, expected {expected}"
            )
        if output.device != self._references[variant].device:
            where = self._references[variant].device
            return Check(None, None, f"the output is on {output.device}, expected {where}")
        if self._query_rows is not None:
            output = output.index_select(-2, self._query_rows)
        error = self._budgets[variant].excess(output, self._references[variant])
        if not math.isfinite(error.max_error):
            return Check(None, None, "the output holds NaN or infinity")
        ratio = error.error_ratio if math.isfinite(error.error_ratio) else None
        if error.error_ratio > 1:
            complaint = f"the error exceeds the budget {error.error_ratio:.3g} times, by {error.criterion}"
            return Check(error.max_error, ratio, complaint)
        return Check(error.max_error, ratio, None)


class AttentionSubject(ForwardSubject):
    """Attention alone: the new queries are `inputs.q`."""

    def __init__(self, problem: AttentionProblem, seed: int, query_rows: torch.Tensor | None) -> None:
        self._problem = problem
        self._seed = seed
        self._inputs = make_inputs(problem, seed)
        self._queries = make_queries(problem, seed, NUM_QUERY_VARIANTS)
        references, budgets = [], []
        for variant in range(NUM_QUERY_VARIANTS):
            self.write_queries(variant)
            references.append(reference_attention(problem, self._inputs, query_rows))
            budgets.append(error_budget(problem, self._inputs, references[-1], query_rows))
        guard = InputGuard([self._inputs.k, self._inputs.v], self._remake)
        q = self._inputs.q
        super().__init__(references, budgets, query_rows, tuple(q.shape), q.dtype, guard)
        if problem.kv_dtype is not None:
            self.quantisation_error = self._quantisation_error()

    def _quantisation_error(self) -> float:
        errors = []
        for variant, reference in enumerate(self._references):
            self.write_queries(variant)
            errors.append(quantisation_error(self._problem, self._inputs, reference, self._query_rows))
        return max(errors)

    def _remake(self) -> list[torch.Tensor]:
        inputs = make_inputs(self._problem, self._seed)
        return [inputs.k, inputs.v]

    def unsupported_reasons(self, impl: AttentionImpl) -> list[str]:
        return stated_reasons(impl, self._problem)

    def prepare(self, impl: AttentionImpl) -> PreparedAttention:
        return as_prepared(impl.prepare(self._problem, self._inputs))

    def timed_call(self, impl: AttentionImpl) -> TimedCall | None:
        return declared_timed_call(impl)

    def write_queries(self, variant: int) -> None:
        self.queries.copy_(self._queries[variant])

    @property
    def queries(self) -> torch.Tensor:
        return self._inputs.q


class LayerSubject(ForwardSubject):
    """A whole layer: the new queries come from new hidden states."""

    def __init__(self, problem: AttentionProblem, hidden_size: int, seed: int) -> None:
        self._problem = problem
        self._seed = seed
        self._inputs = make_layer_inputs(problem, seed, hidden_size)
        self._hidden_states = make_hidden_states(problem, seed, hidden_size, NUM_QUERY_VARIANTS)
        references, budgets = [], []
        for variant in range(NUM_QUERY_VARIANTS):
            self.write_queries(variant)
            references.append(layer_reference(problem, self._inputs, seed))
            budgets.append(layer_error_budget(problem, self._inputs, seed, references[-1]))
        guard = InputGuard([self._inputs.past_k, self._inputs.past_v], self._remake)
        hidden = self._inputs.hidden
        super().__init__(references, budgets, None, tuple(hidden.shape), hidden.dtype, guard)

    def _remake(self) -> list[torch.Tensor]:
        inputs = make_layer_inputs(self._problem, self._seed, self._inputs.hidden_size)
        return [inputs.past_k, inputs.past_v]

    def unsupported_reasons(self, impl: AttentionImpl) -> list[str]:
        return layer_unsupported_reasons(impl, self._problem)

    def prepare(self, impl: AttentionImpl) -> PreparedAttention:
        return prepare_layer(impl, self._problem, self._inputs, self._seed)

    def timed_call(self, impl: AttentionImpl) -> TimedCall | None:
        return layer_timed_call(impl)

    def write_queries(self, variant: int) -> None:
        self.queries.copy_(self._hidden_states[variant])

    @property
    def queries(self) -> torch.Tensor:
        return self._inputs.hidden


def select_query_rows(problem: AttentionProblem, seed: int, max_check_gflop: float) -> torch.Tensor | None:
    """Choose query positions to check, where checking all costs more than `max_check_gflop`; None means all.

    The first and the last positions are always among them, where masks go wrong first.
    """
    flops_per_row = _num_passes(problem) * model_flops(problem) / problem.q_len
    num_rows = max(int(max_check_gflop * 1e9 / max(flops_per_row, 1)), _MIN_CHECKED_QUERIES)
    if num_rows >= problem.q_len:
        return None
    quarter = num_rows // 4
    generator = torch.Generator().manual_seed(seed)
    middle = (
        quarter + torch.randperm(problem.q_len - 2 * quarter, generator=generator)[: num_rows - 2 * quarter]
    )
    first, last = torch.arange(quarter), torch.arange(problem.q_len - quarter, problem.q_len)
    return torch.cat([first, middle.sort().values, last]).to(problem.device)


def _num_passes(problem: AttentionProblem) -> int:
    """Count the passes over a problem that its checks take.

    Each variant needs a reference, a pass of the plain formula for its error budget, and with a quantised
    cache a reference without one.
    """
    return NUM_QUERY_VARIANTS * (2 if problem.kv_dtype is None else 3)
