"""PyTorch's flash attention, pinned: FlashAttention-2 on CUDA, a kernel of its own on a CPU."""

from __future__ import annotations

from torch.nn.attention import SDPBackend

from gqabench.attention_impls.contract import TimedCall
from gqabench.attention_impls.parts.calls.pinned_sdpa import PinnedSdpa


class SdpaFlash(PinnedSdpa):
    """Supports grouped heads on both. On CUDA it takes no mask: no causal extend, window or ragged batch."""

    name = "sdpa_flash"
    has_backward = True
    backend = SDPBackend.FLASH_ATTENTION
    promised_operators = ("aten::_scaled_dot_product_flash_attention",)
    timed_call = TimedCall()
