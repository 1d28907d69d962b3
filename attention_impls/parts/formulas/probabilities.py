"""From raw products to attention probabilities, as textbook code does it step by step.

The softmax is in float32 and its result is cast back, whatever the dtype: so do the eager attentions of
Hugging Face Transformers (`eager_attention_forward` of its Llama model).
"""

from __future__ import annotations

import torch


def attention_probabilities(
    products: torch.Tensor, scale: float, soft_cap: float | None, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return `softmax(cap(products * scale) + bias)` over the last dimension, in the dtype of `products`.

    `bias` is an additive mask that broadcasts to `products`; None where nothing is masked.
    """
    logits = products * scale
    if soft_cap is not None:
        logits = soft_cap * torch.tanh(logits / soft_cap)
    if bias is not None:
        logits = logits + bias
    return torch.softmax(logits, dim=-1, dtype=torch.float32).to(products.dtype)
