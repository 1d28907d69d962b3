"""A ring buffer for sliding-window attention: the cache holds the window, not the context.

Shape suffixes: B batch, G key/value heads, K tokens, W slots, D head_dim.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from gqabench.attention_impls.abilities import device_reasons, unpaged_reasons
from gqabench.attention_impls.contract import (
    AttentionImpl,
    AttentionInputs,
    Copying,
    PreparedAttention,
    TimedCall,
)
from gqabench.attention_impls.parts.caches.contiguous import ContiguousCache
from gqabench.attention_impls.parts.formulas.grouped import GroupedFormula
from gqabench.attention_impls.problem import AttentionProblem


class SlidingWindow(AttentionImpl):
    """Token `t` is in slot `t % window` (Mistral's rolling buffer: Jiang et al. 2023, arXiv 2310.06825).

    A new token overwrites the one that just left the window, and attention does not depend on the order of
    keys. So the newest query sees exactly what the buffer holds, and needs no mask.
    """

    name = "sliding_window"
    reads_cache_in_place = False
    timed_call = TimedCall(dequantisation=Copying.WHOLE)

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        reasons = [*device_reasons(problem), *unpaged_reasons(problem)]
        if problem.window is None:
            reasons.append("window=null: the buffer holds one window of tokens, so a window is needed")
        if problem.q_len != 1:
            reasons.append(
                f"q_len={problem.q_len}: must be 1; the buffer holds only what the newest query sees, and"
                " earlier queries see older tokens"
            )
        return reasons

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        assert problem.window is not None
        num_slots = min(problem.window, problem.kv_len)
        lengths = [problem.kv_len_of(sequence) for sequence in range(problem.batch_size)]
        held = replace(
            problem,
            kv_len=num_slots,
            window=None,
            kv_lens=tuple(min(length, num_slots) for length in lengths),
        )
        buffers = AttentionInputs(
            inputs.q, _in_slots(inputs.k, lengths, num_slots), _in_slots(inputs.v, lengths, num_slots)
        )
        cache, formula = ContiguousCache.of(held, buffers), GroupedFormula.for_problem(held)

        def run() -> torch.Tensor:
            return formula(inputs.q, *cache.read())

        return PreparedAttention(run, cache.nbytes)


def _in_slots(kv_BGKD: torch.Tensor, lengths: list[int], num_slots: int) -> torch.Tensor:
    """Return `[B, G, W, D]`: the newest tokens of each sequence, each in its slot; unused slots are zero."""
    batch_size, num_kv_heads, _, head_dim = kv_BGKD.shape
    slots_BGWD = kv_BGKD.new_zeros(batch_size, num_kv_heads, num_slots, head_dim)
    for sequence, length in enumerate(lengths):
        tokens = torch.arange(max(length - num_slots, 0), length, device=kv_BGKD.device)
        slots_BGWD[sequence, :, tokens % num_slots] = kv_BGKD[sequence, :, tokens]
    return slots_BGWD
