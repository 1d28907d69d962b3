"""cuDNN's attention behind PyTorch's SDPA, pinned. CUDA only."""

from __future__ import annotations

from torch.nn.attention import SDPBackend

from gqabench.attention_impls.contract import TimedCall
from gqabench.attention_impls.parts.calls.pinned_sdpa import PinnedSdpa


class SdpaCudnn(PinnedSdpa):
    """Supports grouped heads, in half precision only. The first call of a new shape builds a plan."""

    name = "sdpa_cudnn"
    devices = ("cuda",)
    has_backward = True
    backend = SDPBackend.CUDNN_ATTENTION
    promised_operators = ("aten::_scaled_dot_product_cudnn_attention",)
    timed_call = TimedCall()
