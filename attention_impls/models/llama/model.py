"""Hugging Face's Llama with seeded random weights, and caches that can be rewound to their context."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import torch

from gqabench.attention_impls.dtypes import torch_dtype
from gqabench.attention_impls.inputs import block_normals
from gqabench.attention_impls.models.llama.shape import VOCAB_SIZE, LlamaShape
from gqabench.attention_impls.problem import AttentionProblem

_EMBEDDING_SIZE = 0.02
"""As Hugging Face initialises them: small beside what attention adds, so that its errors show."""
_SEED_STRIDE = 1_000_003


def make_model(problem: AttentionProblem, shape: LlamaShape, seed: int) -> Any:
    """Build a `LlamaForCausalLM` in the problem's dtype; matrices are normals times `1 / sqrt(fan_in)`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=problem.num_q_heads,
        num_key_value_heads=problem.num_kv_heads,
        head_dim=problem.head_dim,
        max_position_embeddings=problem.kv_len,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to(torch_dtype(problem)).to_empty(device=problem.device).eval().requires_grad_(False)
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(problem.device)
    for index, (name, parameter) in enumerate(model.named_parameters()):
        _fill(name, parameter, seed * _SEED_STRIDE + index)
    return model


def sharing_weights(model: Any, attn_implementation: str) -> Any:
    """Copy a model that shares all tensors with the original, with another attention implementation."""
    shared = (*model.parameters(), *model.buffers())
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    twin.set_attn_implementation(attn_implementation)
    return twin


def make_cache(model: Any, shape: LlamaShape, kv_len: int) -> Any:
    """Create an empty `DynamicCache`, or a `StaticCache` with room for `kv_len` tokens."""
    from transformers import DynamicCache, StaticCache

    if shape.hf_cache == "static":
        return StaticCache(config=model.config, max_cache_len=kv_len)
    return DynamicCache(config=model.config)


def logits_of(model: Any, ids: torch.Tensor, cache: Any) -> torch.Tensor:
    """Run the model on some tokens, which are appended to the cache.

    Returns the logits of the last token, `[batch_size, 1, VOCAB_SIZE]`.
    """
    argument = "cache" if "cache" in inspect.signature(type(model).forward).parameters else "past_key_values"
    logits: torch.Tensor = model(input_ids=ids, use_cache=True, logits_to_keep=1, **{argument: cache}).logits
    return logits


class ContextCache:
    """A cache filled by a prefill, which is rewound to that context before every decode step."""

    def __init__(self, cache: Any, context_len: int, is_static: bool) -> None:
        self.cache = cache
        self._context_len = context_len
        self._is_static = is_static
        self._context = [] if is_static else [(layer.keys, layer.values) for layer in cache.layers]
        self._is_dirty = False

    @property
    def num_bytes(self) -> int:
        """Of all layers, as the object holds them now."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.cache.layers)

    def step(self) -> Any:
        """Return the cache for one decode step, after which it holds one token more."""
        if self._is_dirty:
            self.rewind()
        self._is_dirty = True
        return self.cache

    def rewind(self, to_copy: bool = False) -> None:
        """Hold the context alone. A static cache forgets its last slot; a dynamic one gets its tensors back.

        `to_copy`: give it a copy of them, which a step frees layer by layer, as in a decoder.
        """
        self._is_dirty = False
        if self._is_static:
            for layer in self.cache.layers:
                _forget_after(layer, self._context_len)
        for layer, tensors in zip(self.cache.layers, self._context, strict=False):
            layer.keys, layer.values = (x.clone() if to_copy else x for x in tensors)


def _forget_after(layer: Any, num_tokens: int) -> None:
    """Make a static layer forget all but its first tokens.

    Versions of Transformers keep its length in a counter, or derive it by looking for zeros.
    """
    if hasattr(layer, "cumulative_length"):
        layer.cumulative_length.fill_(num_tokens)
    else:
        layer.keys[:, :, num_tokens:].zero_()


def _fill(name: str, parameter: torch.Tensor, seed: int) -> None:
    if parameter.dim() == 1:
        parameter.fill_(1)  # the scale of a norm
        return
    size = _EMBEDDING_SIZE if "embed" in name else 1 / math.sqrt(parameter.shape[1])
    normals = block_normals(tuple(parameter.shape), seed, parameter.dtype, str(parameter.device))
    parameter.copy_(normals.mul_(size))
