"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864, section 3.2.2).

Half-rotation layout, as in Llama's Hugging Face weights: element `i` pairs with element `i + head_dim / 2`.

Shape suffixes: B batch, H heads, L tokens, D head_dim, F frequencies (head_dim / 2).
"""

from __future__ import annotations

import torch

DEFAULT_THETA = 10_000.0
"""Base of the wavelengths, `theta` in equation 15 of the paper."""


def rope_tables(
    positions_L: torch.Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosine and sine of `position * theta^(-2 i / head_dim)`, each `[L, head_dim / 2]`.

    Angles are computed in float64: in float32 they lose their fraction at positions beyond 10^6.
    """
    exponents_F = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions_L.device) / head_dim
    angles_LF = torch.outer(positions_L.to(torch.float64), theta**-exponents_F)
    return angles_LF.cos().to(dtype), angles_LF.sin().to(dtype)


def rotate(x_BHLD: torch.Tensor, cos_LF: torch.Tensor, sin_LF: torch.Tensor) -> torch.Tensor:
    """Rotate `x` by its positions. Arithmetic is in the dtype of the tables, the result in that of `x`."""
    low_BHLF, high_BHLF = x_BHLD.to(cos_LF.dtype).chunk(2, dim=-1)
    rotated_BHLD = torch.cat(
        [low_BHLF * cos_LF - high_BHLF * sin_LF, high_BHLF * cos_LF + low_BHLF * sin_LF], dim=-1
    )
    return rotated_BHLD.to(x_BHLD.dtype)
