"""JAX's Pallas decode kernel, `jax.experimental.pallas.ops.gpu.decode_attention.mqa`.

Its `gqa` is the same kernel, but wants tokens before heads and transposes the whole cache back in every call.
Here they stand there, and `mqa` takes every key/value head of every sequence as a sequence of its own.

Shape suffixes: N key/value heads of all sequences, S group_size, K kv_len, D head_dim, G key/value heads.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.nn.functional import pad

from gqabench.attention_impls.abilities import plain_cache_reasons
from gqabench.attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from gqabench.attention_impls.parts.calls.cuda_peer import (
    cuda_peer_reasons,
    decode_only_reasons,
    lengths_on_device,
)
from gqabench.attention_impls.parts.calls.packages import is_installed
from gqabench.attention_impls.problem import AttentionProblem

BLOCK_K = 128
"""Keys of a block: the default of `gqa`. That of `mqa` is 256."""
CAPACITY_MULTIPLE = 16 * BLOCK_K
"""The kernel's default number of splits times its block of keys, which must divide the cache's length."""
PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
"""Without one of them JAX knows no GPU."""


class JaxPallas(AttentionImpl):
    """JAX's decode kernel. Tensors are shared with JAX without a copy; a call waits for JAX's own stream.

    The kernel is for GPUs: on a CPU JAX only interprets it, and timing that means nothing.
    """

    name = "jax_pallas"
    devices = ("cuda",)
    extras = ("jax",)
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
        if is_installed("jax") and not any(map(is_installed, PLUGINS)):
            reasons.append(f"the package {PLUGINS[0]} is not installed: pip install 'jax[cuda13]'")
        if problem.logits_soft_cap is not None:
            reasons.append(f"logits_soft_cap={problem.logits_soft_cap}: the kernel has no soft cap")
        if problem.head_dim & (problem.head_dim - 1):
            reasons.append(f"head_dim={problem.head_dim}: must be a power of two")
        return reasons

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else it takes most of the device
        from jax.dlpack import from_dlpack
        from jax.experimental.pallas.ops.gpu.decode_attention import mqa

        padding = (0, 0, 0, -problem.kv_len % CAPACITY_MULTIPLE)
        k_NKD, v_NKD = (pad(x, padding).flatten(0, 1).contiguous() for x in (inputs.k, inputs.v))
        ends_N = lengths_on_device(problem).repeat_interleave(problem.num_kv_heads)
        window = problem.kv_len if problem.window is None else problem.window
        starts_N = (ends_N - window).clamp(min=0)
        k, v, starts, ends = (from_dlpack(x) for x in (k_NKD, v_NKD, starts_N, ends_N))
        heads = (len(k_NKD), problem.group_size, problem.head_dim)

        def run() -> torch.Tensor:
            torch.cuda.current_stream(problem.device).synchronize()
            q: Any = from_dlpack(inputs.q.reshape(heads))
            output = mqa(q, k, v, starts, ends, sm_scale=problem.scale, block_k=BLOCK_K)
            output_NSD: torch.Tensor = torch.utils.dlpack.from_dlpack(output.block_until_ready())
            # Its merge of the splits returns float32, whatever the inputs.
            return output_NSD.to(inputs.q.dtype).view(inputs.q.shape)

        return PreparedAttention(run, k_NKD.nbytes + v_NKD.nbytes)
