"""The `layer` workload: a whole attention layer, called again and again at the same position."""

from __future__ import annotations

from dataclasses import fields, replace

import torch

from gqabench.attention_impls.contract import AttentionImpl, Copying, PreparedAttention, TimedCall
from gqabench.attention_impls.models.layer.grouped_query_attention import (
    GroupedQueryAttention,
    layer_shape_reasons,
)
from gqabench.attention_impls.models.layer.inputs import LayerInputs, make_layer_weights
from gqabench.attention_impls.plugins.promises import (
    declared_timed_call,
    reads_cache_in_place,
    stated_reasons,
)
from gqabench.attention_impls.problem import AttentionProblem


def layer_unsupported_reasons(impl: AttentionImpl, problem: AttentionProblem) -> list[str]:
    """Return why a layer with this implementation cannot compute the problem; empty: it can."""
    return [*layer_shape_reasons(problem), *stated_reasons(impl, problem)]


def layer_timed_call(impl: AttentionImpl) -> TimedCall | None:
    """Return what a call of the layer contains; None if the implementation does not declare its own.

    An implementation that keeps another cache converts the layer's cache and plans in every call.
    """
    declared = declared_timed_call(impl)
    if declared is None:
        return None
    inside = replace(declared, cache_append=True, num_launches=None)
    if reads_cache_in_place(impl):
        return inside
    return replace(inside, planning=True, layout_conversion=Copying.WHOLE)


def prepare_layer(
    impl: AttentionImpl, problem: AttentionProblem, inputs: LayerInputs, seed: int
) -> PreparedAttention:
    """Prepare a layer with the weights of `seed` and the past in its cache, to be called repeatedly.

    A call rewinds the cache to `kv_len - q_len` tokens and runs the whole layer on `inputs.hidden`, read when
    called: projections, RoPE, append, attention, output projection. It returns `[batch_size, q_len,
    hidden_size]`. An implementation that does not read the cache in place is prepared again in each call, as
    a decoder must. Raises `ValueError` for a problem that is unsupported.
    """
    if reasons := layer_unsupported_reasons(impl, problem):
        raise ValueError("; ".join(reasons))
    layer = GroupedQueryAttention(problem, impl, inputs.hidden_size)
    weights = make_layer_weights(problem, seed, inputs.hidden_size)
    for field in fields(weights):
        getattr(layer, field.name).weight = torch.nn.Parameter(
            getattr(weights, field.name), requires_grad=False
        )
    layer.cache.append(inputs.past_k, inputs.past_v)
    past_len = layer.cache.kv_len

    def run() -> torch.Tensor:
        layer.rewind(past_len)
        return layer(inputs.hidden)  # type: ignore[no-any-return]

    run()  # prepares the implementation for this position, compilation included
    return PreparedAttention(run, layer.kv_cache_bytes)
