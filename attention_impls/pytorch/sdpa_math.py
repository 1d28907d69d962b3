"""PyTorch's unfused attention, pinned: the fallback that takes every problem."""

from __future__ import annotations

from torch.nn.attention import SDPBackend

from gqabench.attention_impls.contract import Copying, TimedCall
from gqabench.attention_impls.parts.calls.pinned_sdpa import PinnedSdpa


class SdpaMath(PinnedSdpa):
    """Expands K and V by `repeat_interleave` inside and keeps scaled copies: the largest workspace of all."""

    name = "sdpa_math"
    has_backward = True
    backend = SDPBackend.MATH
    promised_operators = ("aten::_scaled_dot_product_attention_math",)
    timed_call = TimedCall(kv_expansion=Copying.WHOLE)
