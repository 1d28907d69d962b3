"""PyTorch's own answer to whether one of its attention kernels takes a problem.

The conditions differ between versions and devices (grouped heads in the efficient kernel, widths in cuDNN).
So PyTorch is asked, and its conditions are not copied: `torch._fused_sdp_choice` is what
`scaled_dot_product_attention` itself calls first. It looks at shapes, dtypes and the device, and computes
nothing.
"""

from __future__ import annotations

import re
import warnings

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from gqabench.attention_impls.dtypes import torch_dtype
from gqabench.attention_impls.parts.formulas.masks import MaskKind, mask_kind
from gqabench.attention_impls.problem import AttentionProblem

BACKEND_LABELS = {
    SDPBackend.FLASH_ATTENTION: "flash",
    SDPBackend.CUDNN_ATTENTION: "cuDNN",
    SDPBackend.EFFICIENT_ATTENTION: "memory efficient",
    SDPBackend.MATH: "math",
}


def backend_reasons(problem: AttentionProblem, backend: SDPBackend) -> list[str]:
    """Return why PyTorch does not run this problem with this kernel; empty means that it does."""
    with warnings.catch_warnings(record=True) as caught, sdpa_kernel(backend):
        warnings.simplefilter("always")
        try:
            torch._fused_sdp_choice(
                *_stand_ins(problem),
                attn_mask=_mask_stand_in(problem),
                is_causal=mask_kind(problem) is MaskKind.SQUARE_CAUSAL,
                enable_gqa=problem.group_size != 1,
            )
        except RuntimeError:
            label = BACKEND_LABELS[backend]
            where = f"PyTorch {torch.__version__} on {problem.device_type}"
            details = refusals_of(label, [str(warning.message) for warning in caught])
            if problem.device_type == "cpu":
                details = ["there is no such kernel for the CPU"]
            why = "; ".join(details) or "it refuses this shape, dtype or mask"
            return [f"{label} attention of {where}: {why}"]
    return []


def refusals_of(label: str, messages: list[str]) -> list[str]:
    """Return what PyTorch says about one kernel, out of all warnings of a refused choice.

    For each kernel in turn there is a heading, such as "Flash attention kernel not used because:", and then
    its objections. The location in PyTorch's code at the end of each is removed.
    """
    refusals: list[str] = []
    is_about_label = False
    for message in messages:
        text = re.sub(r"\s*\(Triggered internally at\b.*", "", message, flags=re.DOTALL).strip()
        if text.endswith("not used because:"):
            is_about_label = text.lower().startswith(label.lower())
        elif is_about_label:
            refusals.append(text)
    return refusals


def _stand_ins(problem: AttentionProblem) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return tensors with the shapes of q, k and v that store one row: only their shapes are used."""
    row_D = torch.empty(problem.head_dim, dtype=torch_dtype(problem), device=problem.device)
    q = row_D.expand(problem.batch_size, problem.num_q_heads, problem.q_len, problem.head_dim)
    kv = row_D.expand(problem.batch_size, problem.num_kv_heads, problem.kv_len, problem.head_dim)
    return q, kv, kv


def _mask_stand_in(problem: AttentionProblem) -> torch.Tensor | None:
    if mask_kind(problem) is not MaskKind.GENERAL:
        return None
    row_K = torch.empty(problem.kv_len, dtype=torch_dtype(problem), device=problem.device)
    return row_K.expand(problem.batch_size, 1, problem.q_len, problem.kv_len)
