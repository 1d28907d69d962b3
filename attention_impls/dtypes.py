"""The torch dtype that a problem names."""

from __future__ import annotations

import torch

from gqabench.attention_impls.problem import AttentionProblem

_TORCH_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def torch_dtype(problem: AttentionProblem) -> torch.dtype:
    """Return the dtype of the problem's queries and outputs, and of an unquantised cache."""
    return _TORCH_DTYPES[problem.dtype]


def unit_roundoff(dtype: torch.dtype) -> float:
    """Return the largest relative error of rounding to a dtype.

    `2^-24` for float32, `2^-11` for float16, `2^-8` for bfloat16.
    """
    return torch.finfo(dtype).eps / 2
