"""Hugging Face's `flex_attention`, compiled in `prepare` for the problem's static shapes.

Shape suffixes: B batch, H query heads, Q q_len, D head_dim.
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
from gqabench.attention_impls.parts.calls.compiled_call import compiler_reasons, compiling
from gqabench.attention_impls.parts.calls.flex_block_mask import flex_block_mask
from gqabench.attention_impls.parts.calls.packages import package_reasons
from gqabench.attention_impls.parts.calls.transformers_module import AttentionModule
from gqabench.attention_impls.problem import AttentionProblem
from gqabench.attention_impls.pytorch.flex import flex_reasons


class TransformersFlex(AttentionImpl):
    """`flex_attention_forward`: it expands K and V where the number of query heads is no power of two.

    In a model its first shape is compiled as static and later ones as dynamic. Here every problem is a first
    one, so that a row does not depend on which problems came before it.
    """

    name = "transformers_flex"
    extras = ("transformers",)
    compiles_each_problem = True
    timed_call = TimedCall(kv_expansion=Copying.UNKNOWN)

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        return [
            *device_reasons(problem),
            *plain_cache_reasons(problem),
            *package_reasons("transformers", "transformers"),
            *flex_reasons(problem),
            *compiler_reasons(problem),
        ]

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        from transformers.integrations.flex_attention import flex_attention_forward

        module = AttentionModule(problem)
        block_mask = flex_block_mask(problem)

        def run() -> torch.Tensor:
            output_BQHD, _ = flex_attention_forward(
                module,
                inputs.q,
                inputs.k,
                inputs.v,
                block_mask,
                scaling=problem.scale,
                softcap=problem.logits_soft_cap,
            )
            output_BHQD: torch.Tensor = output_BQHD.transpose(1, 2)
            return output_BHQD

        with compiling() as compile_ms:
            run()
        return PreparedAttention(run, inputs.k.nbytes + inputs.v.nbytes, compile_ms=compile_ms())
