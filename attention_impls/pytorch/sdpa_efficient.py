"""PyTorch's memory efficient attention (from xFormers), pinned. CUDA only."""

from __future__ import annotations

from torch.nn.attention import SDPBackend

from gqabench.attention_impls.contract import TimedCall
from gqabench.attention_impls.parts.calls.pinned_sdpa import PinnedSdpa


class SdpaEfficient(PinnedSdpa):
    """Refuses grouped heads in PyTorch 2.11 and 2.13: there it serves multi-head attention only."""

    name = "sdpa_efficient"
    devices = ("cuda",)
    has_backward = True
    backend = SDPBackend.EFFICIENT_ATTENTION
    promised_operators = ("aten::_scaled_dot_product_efficient_attention",)
    timed_call = TimedCall()
