"""Reasons for `unsupported` that several implementations share."""

from __future__ import annotations

import torch

from gqabench.attention_impls.problem import AttentionProblem


def device_reasons(problem: AttentionProblem) -> list[str]:
    """Return why PyTorch cannot use the problem's device here; empty means that it can."""
    if problem.device_type == "cpu":
        return []
    if not torch.cuda.is_available():
        return [f"device={problem.device}: PyTorch {torch.__version__} finds no CUDA device"]
    num_devices = torch.cuda.device_count()
    if torch.device(problem.device).index is not None and torch.device(problem.device).index >= num_devices:
        return [f"device={problem.device}: this machine has {num_devices} CUDA device(s), numbered from 0"]
    return []


def plain_cache_reasons(problem: AttentionProblem) -> list[str]:
    """Return why one contiguous cache in the problem's dtype does not suffice: `kv_dtype`, `page_size`."""
    return [*unquantised_reasons(problem), *unpaged_reasons(problem)]


def unquantised_reasons(problem: AttentionProblem) -> list[str]:
    """Return why a cache in the problem's dtype does not suffice: the problem has a `kv_dtype`."""
    if problem.kv_dtype is None:
        return []
    return [f"kv_dtype={problem.kv_dtype}: this implementation stores the cache unquantised, in dtype"]


def unpaged_reasons(problem: AttentionProblem) -> list[str]:
    """Return why a contiguous cache does not suffice: the problem has a `page_size`."""
    if problem.page_size is None:
        return []
    return [f"page_size={problem.page_size}: this implementation keeps the cache contiguous, without pages"]


def no_soft_cap_reasons(problem: AttentionProblem) -> list[str]:
    """Return why `scaled_dot_product_attention` does not suffice: the problem has a soft cap."""
    if problem.logits_soft_cap is None:
        return []
    return [
        f"logits_soft_cap={problem.logits_soft_cap}: scaled_dot_product_attention has no soft cap for logits"
    ]
