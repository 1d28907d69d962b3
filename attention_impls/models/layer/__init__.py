"""An attention layer around any implementation: projections, RoPE, a KV cache, attention."""

from gqabench.attention_impls.models.layer.formula import layer_error_budget, layer_reference
from gqabench.attention_impls.models.layer.grouped_query_attention import GroupedQueryAttention
from gqabench.attention_impls.models.layer.inputs import LayerInputs, make_hidden_states, make_layer_inputs
from gqabench.attention_impls.models.layer.kv_cache import KvCache
from gqabench.attention_impls.models.layer.workload import (
    layer_timed_call,
    layer_unsupported_reasons,
    prepare_layer,
)

__all__ = [
    "GroupedQueryAttention",
    "KvCache",
    "LayerInputs",
    "layer_error_budget",
    "layer_reference",
    "layer_timed_call",
    "layer_unsupported_reasons",
    "make_hidden_states",
    "make_layer_inputs",
    "prepare_layer",
]
