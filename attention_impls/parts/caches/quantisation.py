"""Quantised keys and values: symmetric, one float32 scale for each token, key/value head and tensor.

    scale = max|x| / largest        value = round(x / scale), clamped to +-largest        x' = value * scale

with `largest` 127 for int8, so that the range is symmetric, and 448 for float8_e4m3, its largest finite
number. Both round to nearest, ties to even. A token whose elements are all zero has the scale 1.

A token is quantised by itself: quantising a part of a cache gives that part of the quantised cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

INT8_LARGEST = 127
FLOAT8_E4M3_LARGEST = 448
"""Largest finite number of E4M3 without infinities (Micikevicius et al. 2022, arXiv 2209.05433, table 1)."""

_LARGEST = {"int8": INT8_LARGEST, "float8_e4m3": FLOAT8_E4M3_LARGEST}


@dataclass(frozen=True)
class QuantisedTensor:
    """Keys or values as a quantised cache holds them."""

    values: torch.Tensor
    """`[..., head_dim]`, `torch.int8` or `torch.float8_e4m3fn`"""
    scales: torch.Tensor
    """`[...]`, float32: one for each token and head"""

    @property
    def nbytes(self) -> int:
        """Bytes of values and scales."""
        return self.values.nbytes + self.scales.nbytes

    def dequantise(self, dtype: torch.dtype) -> torch.Tensor:
        """Return `values * scales`, `[..., head_dim]`: multiplied in float32, rounded once to `dtype`."""
        return self.values.to(torch.float32).mul_(self.scales[..., None]).to(dtype)


def quantise(x: torch.Tensor, kv_dtype: str) -> QuantisedTensor:
    """Quantise finite keys or values `[..., head_dim]` of any floating-point dtype and any strides.

    `kv_dtype` is one of `KV_DTYPE_ITEMSIZES`. Arithmetic is in float32.
    """
    largest = _LARGEST[kv_dtype]
    exact = x.to(torch.float32)
    scales = exact.abs().amax(-1) / largest
    scales.masked_fill_(scales == 0, 1)  # zeros, and what float32 cannot tell from zeros
    levels = (exact / scales[..., None]).clamp_(-largest, largest)
    if kv_dtype == "int8":
        return QuantisedTensor(levels.round_().to(torch.int8), scales)
    return QuantisedTensor(levels.to(torch.float8_e4m3fn), scales)
