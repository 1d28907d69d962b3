"""JAX's Pallas decode kernel for grouped heads, `jax.experimental.pallas.ops.gpu.decode_attention.gqa`.

Shape suffixes: B batch, H query heads, G key/value heads, K kv_len, D head_dim.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.nn.functional import pad

from attention_impls.abilities import plain_cache_reasons
from attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from attention_impls.libraries.cuda_peer import (
    cuda_peer_reasons,
    decode_only_reasons,
    lengths_on_device,
    token_first_cache,
)
from attention_impls.problem import AttentionProblem

CAPACITY_MULTIPLE = 16 * 128
"""The kernel's default number of splits times its block of keys, which must divide the cache's length."""


class JaxPallas(AttentionImpl):
    """Tensors are shared with JAX without a copy. A call waits for JAX, which has a stream of its own.

    The kernel is for GPUs: on a CPU JAX only interprets it, which measures nothing.
    """

    name = "jax_pallas"
    reads_cache_in_place = False
    allocates_outside_torch = True
    compiles_each_problem = True
    timed_call = TimedCall(planning=True)

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        reasons = [
            *cuda_peer_reasons(problem, "jax", "jax"),
            *plain_cache_reasons(problem),
            *decode_only_reasons(problem),
        ]
        if problem.logits_soft_cap is not None:
            reasons.append(f"logits_soft_cap={problem.logits_soft_cap}: the kernel has no soft cap")
        if problem.head_dim & (problem.head_dim - 1):
            reasons.append(f"head_dim={problem.head_dim}: must be a power of two")
        return reasons

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else it takes most of the device
        from jax.dlpack import from_dlpack
        from jax.experimental.pallas.ops.gpu.decode_attention import gqa

        padding = (0, 0, 0, 0, 0, -problem.kv_len % CAPACITY_MULTIPLE)
        k_BKGD, v_BKGD = (pad(x_BKGD, padding) for x_BKGD in token_first_cache(inputs))
        ends_B = lengths_on_device(problem)
        window = problem.kv_len if problem.window is None else problem.window
        starts_B = (ends_B - window).clamp(min=0)
        k, v, starts, ends = (from_dlpack(x) for x in (k_BKGD, v_BKGD, starts_B, ends_B))

        def run() -> torch.Tensor:
            torch.cuda.current_stream(problem.device).synchronize()
            q: Any = from_dlpack(inputs.q[:, :, 0].contiguous())
            output = gqa(q, k, v, start_idx=starts, kv_seq_len=ends, sm_scale=problem.scale)
            output_BHD: torch.Tensor = torch.utils.dlpack.from_dlpack(output.block_until_ready())
            return output_BHD[:, :, None]

        return PreparedAttention(run, k_BKGD.nbytes + v_BKGD.nbytes)
