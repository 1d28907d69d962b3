"""Generation: a call is one decode step of a whole Hugging Face model, whose logits are checked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any
from weakref import WeakSet

import torch

from gqabench.attention_impls import AttentionImpl, AttentionProblem, PreparedAttention, TimedCall
from gqabench.attention_impls.contract import Copying
from gqabench.attention_impls.correctness.error_budget import ErrorBudget
from gqabench.attention_impls.dtypes import torch_dtype
from gqabench.attention_impls.models.llama.model import (
    ContextCache,
    logits_of,
    make_cache,
    make_model,
    sharing_weights,
)
from gqabench.attention_impls.models.llama.reference import step_budget, step_references
from gqabench.attention_impls.models.llama.shape import VOCAB_SIZE, LlamaShape
from gqabench.attention_impls.parts.calls.packages import package_reasons
from gqabench.attention_impls.peers.transformers_eager import TransformersEager
from gqabench.attention_impls.peers.transformers_sdpa import TransformersSdpa
from gqabench.attention_impls.plugins.promises import declared_timed_call, stated_reasons
from gqabench.harness.worker.memory.call_profile import profile_call
from gqabench.harness.worker.memory.memory_limit import require_memory
from gqabench.harness.worker.subjects.input_guard import InputGuard
from gqabench.harness.worker.subjects.subject import (
    NUM_QUERY_VARIANTS,
    NUM_TIMED_VARIANTS,
    ForwardSubject,
    Prefill,
    UnsupportedProblem,
)

NUM_PREFILL_SAMPLES = 3

_STOCK: dict[type, str] = {TransformersEager: "eager", TransformersSdpa: "sdpa"}
"""Implementations that are the library's own: the model runs them itself, and no plug-in stands between."""


@dataclass(frozen=True)
class PreparedGeneration(PreparedAttention):
    """A model with one implementation, and its context in a cache."""

    prefill: Callable[[], torch.Tensor] | None = None
    """The context through the model into a new cache"""
    allocates_in_torch: bool = True
    """Whether PyTorch's allocator sees what a call allocates"""


class GenerateSubject(ForwardSubject):
    """A Llama-shaped model with random weights; new token ids are its queries.

    The context of `kv_len - 1` tokens is prefilled by the implementation itself. All of an implementation's
    models share their weights; each has a cache of its own, so there are no inputs to guard.
    """

    def __init__(self, problem: AttentionProblem, shape: LlamaShape, seed: int) -> None:
        if reasons := package_reasons("transformers", "transformers"):
            raise UnsupportedProblem(f"workload=generate: {reasons[0]}")
        self._problem = problem
        self._shape = shape
        self.weight_bytes = shape.num_parameters(problem) * problem.itemsize
        require_memory(problem, self.weight_bytes, "the model's weights")
        self._model = make_model(problem, shape, seed)
        self._caches: WeakSet[ContextCache] = WeakSet()
        self._context, self._tokens = _token_ids(problem, seed)
        self._ids = self._tokens[0].clone()
        references = step_references(problem, self._model, self._context, self._tokens[:, :, 0])
        budgets = self._eager_budgets(references)
        output_shape = (problem.batch_size, 1, VOCAB_SIZE)
        guard = InputGuard([], list)
        super().__init__(list(references), budgets, None, output_shape, torch_dtype(problem), guard)

    def unsupported_reasons(self, impl: AttentionImpl) -> list[str]:
        """Ask as the model does: a prefill of the context, then one query that sees every key."""
        context_len = self._context.shape[1]
        prefill = replace(self._problem, q_len=context_len, kv_len=context_len)
        decode = replace(self._problem, causal=False)
        reasons = [
            *(f"prefill: {reason}" for reason in stated_reasons(impl, prefill)),
            *(f"decode: {reason}" for reason in stated_reasons(impl, decode)),
        ]
        return list(dict.fromkeys(reasons))

    def prepare(self, impl: AttentionImpl) -> PreparedAttention:
        model = sharing_weights(self._model, _attn_implementation(impl))
        cache, _ = self._prefilled(model)

        def step() -> torch.Tensor:
            return logits_of(model, self._ids, cache.step())

        def prefill() -> torch.Tensor:
            return self._prefilled(model)[1]

        step()
        total = cache.num_bytes
        cache.rewind()
        return PreparedGeneration(
            step,
            total // self._shape.num_layers,
            prefill=prefill,
            allocates_in_torch=not getattr(impl, "allocates_outside_torch", False),
        )

    def measure_prefill(self, prepared: PreparedAttention) -> Prefill:
        """Time the prefill as a caller sees it, and measure its memory."""
        assert isinstance(prepared, PreparedGeneration) and prepared.prefill is not None
        samples_ms = [self._milliseconds_of(prepared.prefill) for _ in range(NUM_PREFILL_SAMPLES)]
        peak_bytes = None
        if prepared.allocates_in_torch:
            peak_bytes = profile_call(prepared.prefill, self._problem.device).memory.peak_workspace_bytes
        return Prefill(median(samples_ms), samples_ms, peak_bytes)

    def timed_call(self, impl: AttentionImpl) -> TimedCall | None:
        """Return what a step contains.

        The model appends, and what it plugs in is prepared by every layer in every step.
        """
        declared = declared_timed_call(impl)
        if declared is None:
            return None
        inside = replace(declared, cache_append=True, num_launches=None)
        if type(impl) in _STOCK:
            return inside
        in_place = getattr(impl, "reads_cache_in_place", True)
        conversion = declared.layout_conversion if in_place else Copying.WHOLE
        return replace(inside, planning=True, layout_conversion=conversion)

    def write_queries(self, variant: int) -> None:
        self._ids.copy_(self._tokens[variant])
        for cache in self._caches:
            cache.rewind()

    @property
    def queries(self) -> torch.Tensor:
        return self._ids

    def write_fresh_queries(self, call: int) -> None:
        """Write other tokens of the vocabulary, since moving one about changes nothing."""
        self.write_queries(call % NUM_TIMED_VARIANTS)
        self._ids.add_(call // NUM_TIMED_VARIANTS + 1).remainder_(VOCAB_SIZE)

    def get_ready_to_profile(self) -> None:
        for cache in self._caches:
            cache.rewind(to_copy=True)

    def _eager_budgets(self, references: torch.Tensor) -> list[ErrorBudget]:
        """Derive the budgets from stock `eager` for each variant, in the problem's dtype."""
        cache, _ = self._prefilled(self._model)
        budgets = []
        for variant, reference in enumerate(references):
            eager = logits_of(self._model, self._tokens[variant], cache.step())
            budgets.append(step_budget(self._problem, self._shape, eager, reference))
        return budgets

    def _prefilled(self, model: Any) -> tuple[ContextCache, torch.Tensor]:
        """Return a new cache with the context in it, and the logits of the context's last token."""
        empty = make_cache(model, self._shape, self._problem.kv_len)
        logits = logits_of(model, self._context, empty)
        cache = ContextCache(empty, self._context.shape[1], self._shape.hf_cache == "static")
        self._caches.add(cache)
        return cache, logits

    def _milliseconds_of(self, call: Callable[[], torch.Tensor]) -> float:
        self._synchronize()
        started = time.perf_counter()
        call()
        self._synchronize()
        return (time.perf_counter() - started) * 1e3

    def _synchronize(self) -> None:
        if self._problem.device_type == "cuda":
            torch.cuda.synchronize(self._problem.device)


def _token_ids(problem: AttentionProblem, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the context `[batch_size, kv_len - 1]`, and distinct new tokens `[variants, batch_size, 1]`."""
    generator = torch.Generator().manual_seed(seed)
    context = torch.randint(VOCAB_SIZE, (problem.batch_size, problem.kv_len - 1), generator=generator)
    first = torch.randint(VOCAB_SIZE, (problem.batch_size, 1), generator=generator)
    tokens = torch.stack([(first + variant) % VOCAB_SIZE for variant in range(NUM_QUERY_VARIANTS)])
    return context.to(problem.device), tokens.to(problem.device)


def _attn_implementation(impl: AttentionImpl) -> str:
    """Return the name that the model selects an implementation by."""
    from gqabench.attention_impls import huggingface as hf

    return _STOCK.get(type(impl)) or hf.register_impl(impl)
