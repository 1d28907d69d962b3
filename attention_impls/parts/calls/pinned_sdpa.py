"""`scaled_dot_product_attention` with one kernel allowed and all others refused: no silent fallback."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from gqabench.attention_impls.abilities import device_reasons, no_soft_cap_reasons, plain_cache_reasons
from gqabench.attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention
from gqabench.attention_impls.parts.calls.sdpa_backend_choice import backend_reasons
from gqabench.attention_impls.parts.calls.sdpa_call import SdpaCall
from gqabench.attention_impls.problem import AttentionProblem


class PinnedSdpa(AttentionImpl):
    """A base class: a subclass names a kernel's backend and the operator that PyTorch runs for it.

    Pinning is part of the call, since PyTorch chooses when it is called. It costs host time, not device time:
    11.9 us instead of 4.4 us for a minute problem (PyTorch 2.13 on an AMD EPYC).
    """

    backend: ClassVar[SDPBackend]

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        reasons = [*device_reasons(problem), *plain_cache_reasons(problem), *no_soft_cap_reasons(problem)]
        return reasons or backend_reasons(problem, self.backend)

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        call = SdpaCall.for_problem(problem)

        def run() -> torch.Tensor:
            with sdpa_kernel(self.backend):
                return call(inputs.q, inputs.k, inputs.v)

        return PreparedAttention(run, inputs.k.nbytes + inputs.v.nbytes)
