"""Hugging Face's `sdpa` attention, with the masks that its models give it.

Shape suffixes: B batch, H query heads, Q q_len, K kv_len, D head_dim.
"""

from __future__ import annotations

import torch

from gqabench.attention_impls.abilities import device_reasons, no_soft_cap_reasons, plain_cache_reasons
from gqabench.attention_impls.contract import (
    AttentionImpl,
    AttentionInputs,
    Copying,
    PreparedAttention,
    TimedCall,
)
from gqabench.attention_impls.parts.calls.packages import package_reasons
from gqabench.attention_impls.parts.calls.transformers_module import AttentionModule
from gqabench.attention_impls.parts.formulas.masks import MaskKind, mask_kind, visibility_mask
from gqabench.attention_impls.problem import AttentionProblem


class TransformersSdpa(AttentionImpl):
    """`sdpa_attention_forward`: grouped heads go to PyTorch as they are where there is no mask.

    With a mask, `repeat_kv` expands them, or (in newer versions, for one query) the group is folded into
    the query length: that is the library's choice and differs between its versions.
    """

    name = "transformers_sdpa"
    extras = ("transformers",)
    has_backward = True
    timed_call = TimedCall(kv_expansion=Copying.UNKNOWN)

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        return [
            *device_reasons(problem),
            *plain_cache_reasons(problem),
            *no_soft_cap_reasons(problem),
            *package_reasons("transformers", "transformers"),
        ]

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        module = AttentionModule(problem)
        visible_B1QK, dead_rows_B1Q1 = _boolean_mask(problem)

        def run() -> torch.Tensor:
            output_BQHD, _ = sdpa_attention_forward(
                module, inputs.q, inputs.k, inputs.v, visible_B1QK, scaling=problem.scale
            )
            output_BHQD: torch.Tensor = output_BQHD.transpose(1, 2)
            return output_BHQD if dead_rows_B1Q1 is None else output_BHQD.masked_fill(dead_rows_B1Q1, 0)

        return PreparedAttention(run, inputs.k.nbytes + inputs.v.nbytes)


def _boolean_mask(problem: AttentionProblem) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the mask, True where a query sees a key, and the rows that see none; these see all in the mask.

    As in the library, there is no mask where `is_causal`, which the module sets, or no mask at all suffices.
    """
    if mask_kind(problem) is not MaskKind.GENERAL:
        return None, None
    visible_B1QK = visibility_mask(problem)
    assert visible_B1QK is not None
    dead_rows_B1Q1 = ~visible_B1QK.any(dim=-1, keepdim=True)
    mask_B1QK = (visible_B1QK | dead_rows_B1Q1).expand(problem.batch_size, -1, -1, -1)
    return mask_B1QK, dead_rows_B1Q1 if bool(dead_rows_B1Q1.any()) else None
