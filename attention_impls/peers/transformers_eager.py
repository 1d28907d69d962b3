"""Hugging Face's `eager` attention, as its Llama models call it (as Gemma 2 does, with a soft cap).

Shape suffixes: B batch, H query heads, Q q_len, K kv_len, D head_dim.
"""

from __future__ import annotations

import torch

from gqabench.attention_impls.abilities import device_reasons, plain_cache_reasons
from gqabench.attention_impls.contract import (
    AttentionImpl,
    AttentionInputs,
    Copying,
    PreparedAttention,
    TimedCall,
)
from gqabench.attention_impls.parts.calls.packages import package_reasons
from gqabench.attention_impls.parts.calls.transformers_module import AttentionModule
from gqabench.attention_impls.parts.formulas.masks import AdditiveMask, additive_mask
from gqabench.attention_impls.problem import AttentionProblem


class TransformersEager(AttentionImpl):
    """`repeat_kv`, two matrix products and a float32 softmax, with the mask always added."""

    name = "transformers_eager"
    extras = ("transformers",)
    has_backward = True
    timed_call = TimedCall(kv_expansion=Copying.WHOLE)

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        return [
            *device_reasons(problem),
            *plain_cache_reasons(problem),
            *package_reasons("transformers", "transformers"),
        ]

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        if problem.logits_soft_cap is None:
            from transformers.models.llama.modeling_llama import eager_attention_forward

            soft_cap = {}
        else:
            from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

            soft_cap = {"softcap": problem.logits_soft_cap}
        module = AttentionModule(problem)
        mask = additive_mask(problem) or _all_visible(problem, inputs)

        def run() -> torch.Tensor:
            output_BQHD, _ = eager_attention_forward(
                module, inputs.q, inputs.k, inputs.v, mask.bias, scaling=problem.scale, **soft_cap
            )
            output_BHQD: torch.Tensor = output_BQHD.transpose(1, 2)
            return mask.zero_dead_rows(output_BHQD)

        return PreparedAttention(run, inputs.k.nbytes + inputs.v.nbytes)


def _all_visible(problem: AttentionProblem, inputs: AttentionInputs) -> AdditiveMask:
    """Build the mask of zeros that its models add even where nothing is masked."""
    bias_B1QK = inputs.q.new_zeros(problem.batch_size, 1, problem.q_len, problem.kv_len)
    return AdditiveMask(bias_B1QK, None)
