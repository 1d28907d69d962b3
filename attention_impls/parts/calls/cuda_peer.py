"""What implementations from CUDA libraries share: reasons, and layouts with tokens before heads.

Shape suffixes: B batch, H query heads, G key/value heads, Q q_len, K kv_len, D head_dim.
"""

from __future__ import annotations

import torch

from gqabench.attention_impls.abilities import device_reasons
from gqabench.attention_impls.contract import AttentionInputs
from gqabench.attention_impls.parts.calls.packages import package_reasons
from gqabench.attention_impls.problem import AttentionProblem

HALF_DTYPES = ("float16", "bfloat16")


def cuda_peer_reasons(
    problem: AttentionProblem, module: str, extra: str, dtypes: tuple[str, ...] = HALF_DTYPES
) -> list[str]:
    """Return why a CUDA library that computes in some dtypes cannot be used here. Imports nothing."""
    reasons = device_reasons(problem)
    if problem.device_type == "cpu":
        reasons.append("device=cpu: it has kernels for CUDA only")
    if problem.dtype not in dtypes:
        reasons.append(f"dtype={problem.dtype}: it supports {' and '.join(dtypes)}")
    return [*reasons, *package_reasons(module, extra)]


def decode_only_reasons(problem: AttentionProblem) -> list[str]:
    """Return why a kernel for one new token does not suffice: there are more."""
    if problem.q_len == 1:
        return []
    return [f"q_len={problem.q_len}: this is a decode kernel, so q_len must be 1"]


def dead_row_reasons(problem: AttentionProblem) -> list[str]:
    """Return why a kernel that counts all queries as tokens of their sequence does not suffice."""
    if min(problem.kv_lens or (problem.kv_len,)) >= problem.q_len:
        return []
    return [
        f"kv_lens={list(problem.kv_lens or ())}: a sequence is shorter than q_len={problem.q_len}, so some"
        " queries see no key"
    ]


def looks_back_only(problem: AttentionProblem) -> bool:
    """Return whether a query must not see the tokens after it, which a window implies."""
    return problem.causal or problem.window is not None


def keys_on_the_left(problem: AttentionProblem) -> int:
    """Return the window in FlashAttention's convention: keys before the query's own; -1 for all.

    A window of the whole sequence counts as none: libraries then use a faster kernel, or another one.
    """
    return -1 if problem.window is None or problem.window >= problem.kv_len else problem.window - 1


def window_size(problem: AttentionProblem) -> tuple[int, int]:
    """Return the keys before and after the query's own, -1 for all: `window_size` of FlashAttention.

    A single query is the last token and has none after it. A bound there would change only the kernel:
    FlashAttention-2 folds the group into the queries only without any bound.
    """
    return keys_on_the_left(problem), 0 if looks_back_only(problem) and problem.q_len > 1 else -1


def tokens_first(x_BGKD: torch.Tensor) -> torch.Tensor:
    """Copy to `[B, K, G, D]`, contiguous."""
    return x_BGKD.transpose(1, 2).contiguous()


def token_first_cache(inputs: AttentionInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Return K and V as `[B, K, G, D]`, the layout in which these libraries keep a cache."""
    return tokens_first(inputs.k), tokens_first(inputs.v)


def lengths_on_device(problem: AttentionProblem) -> torch.Tensor:
    """Return the tokens of each sequence, int32 `[B]`."""
    lengths = [problem.kv_len_of(sequence) for sequence in range(problem.batch_size)]
    return torch.tensor(lengths, dtype=torch.int32, device=problem.device)


def starts_on_device(lengths: list[int], device: str) -> torch.Tensor:
    """Return the start of each of several concatenated sequences, and the end: int32 `[B + 1]`."""
    starts = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return starts.to(device)
