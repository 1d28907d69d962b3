"""The one place where a problem is passed to `torch.nn.functional.scaled_dot_product_attention`.

Shape suffixes: B batch, H query heads, G key/value heads (H, where expanded), Q q_len, K kv_len, D head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from gqabench.attention_impls.parts.formulas.masks import AdditiveMask, MaskKind, additive_mask, mask_kind
from gqabench.attention_impls.problem import AttentionProblem


@dataclass(frozen=True)
class SdpaCall:
    """The arguments of `scaled_dot_product_attention` besides q, k and v.

    `is_causal` is aligned upper-left, so it is used only where that is bottom-right too. The mask is additive
    and built beforehand: a boolean one would be converted in every call.
    """

    scale: float
    is_causal: bool
    mask: AdditiveMask | None

    @classmethod
    def for_problem(cls, problem: AttentionProblem) -> SdpaCall:
        """Build the mask, if the problem needs one."""
        is_causal = mask_kind(problem) is MaskKind.SQUARE_CAUSAL
        return cls(problem.scale, is_causal, None if is_causal else additive_mask(problem))

    def __call__(self, q_BHQD: torch.Tensor, k_BGKD: torch.Tensor, v_BGKD: torch.Tensor) -> torch.Tensor:
        output_BHQD = scaled_dot_product_attention(
            q_BHQD,
            k_BGKD,
            v_BGKD,
            attn_mask=None if self.mask is None else self.mask.bias,
            is_causal=self.is_causal,
            scale=self.scale,
            enable_gqa=q_BHQD.shape[1] != k_BGKD.shape[1],
        )
        return output_BHQD if self.mask is None else self.mask.zero_dead_rows(output_BHQD)
