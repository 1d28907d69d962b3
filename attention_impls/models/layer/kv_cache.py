"""A preallocated, contiguous KV cache of one layer.

Shape suffixes: B batch, G key/value heads, L new tokens, K tokens held, D head_dim.
"""

from __future__ import annotations

import torch
from torch import nn


class KvCache(nn.Module):
    """Keys and values of up to `max_kv_len` tokens of up to `max_batch_size` sequences, all of one length."""

    def __init__(
        self,
        max_batch_size: int,
        num_kv_heads: int,
        max_kv_len: int,
        head_dim: int,
        dtype: torch.dtype,
        device: str,
    ) -> None:
        super().__init__()
        shape = (max_batch_size, num_kv_heads, max_kv_len, head_dim)
        self._k: torch.Tensor
        self._v: torch.Tensor
        # Buffers, so that they move with the layer; not persistent, since they are not weights.
        self.register_buffer("_k", torch.zeros(shape, dtype=dtype, device=device), persistent=False)
        self.register_buffer("_v", torch.zeros(shape, dtype=dtype, device=device), persistent=False)
        self._batch_size = 0
        self.kv_len = 0
        """Tokens held in each sequence."""

    @property
    def batch_size(self) -> int | None:
        """Sequences of which tokens are held; None while there are none."""
        return self._batch_size if self.kv_len else None

    @property
    def max_kv_len(self) -> int:
        return self._k.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes that the cache occupies, filled or not."""
        return self._k.nbytes + self._v.nbytes

    def append(self, k_BGLD: torch.Tensor, v_BGLD: torch.Tensor) -> None:
        """Store `L` more tokens of each sequence, `[B, G, L, D]`. Raises `ValueError` if they do not fit."""
        batch_size, _, num_tokens, _ = k_BGLD.shape
        expected = (batch_size, self._k.shape[1], num_tokens, self._k.shape[3])
        for name, new_BGLD in (("k", k_BGLD), ("v", v_BGLD)):
            if new_BGLD.shape != expected or new_BGLD.dtype != self._k.dtype:
                raise ValueError(
                    f"{name} of shape {list(new_BGLD.shape)} and dtype {new_BGLD.dtype}:"
                    f" must be {list(expected)} and {self._k.dtype}"
                )
        self.require_room(batch_size, num_tokens)
        end = self.kv_len + num_tokens
        self._k[:batch_size, :, self.kv_len : end] = k_BGLD
        self._v[:batch_size, :, self.kv_len : end] = v_BGLD
        self.kv_len = end
        self._batch_size = batch_size

    def require_room(self, batch_size: int, num_tokens: int) -> None:
        """Raise `ValueError` unless `num_tokens` more tokens of `batch_size` sequences fit."""
        if batch_size > self._k.shape[0]:
            raise ValueError(f"batch_size={batch_size}: must not exceed max_batch_size={self._k.shape[0]}")
        if self.batch_size not in (None, batch_size):
            raise ValueError(
                f"batch_size={batch_size}: must be {self.batch_size}, of which {self.kv_len} tokens are held;"
                " reset to begin with others"
            )
        end = self.kv_len + num_tokens
        if end > self.max_kv_len:
            raise ValueError(
                f"kv_len={end}: must not exceed max_kv_len={self.max_kv_len}; the cache holds {self.kv_len}"
                f" tokens and has no room for {num_tokens} more"
            )

    def held(self, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of the first `batch_size` sequences: views `[B, G, K, D]` of the cache."""
        return self._k[:batch_size, :, : self.kv_len], self._v[:batch_size, :, : self.kv_len]

    def rewind(self, kv_len: int) -> None:
        """Forget all but the first `kv_len` tokens. Raises `ValueError` if fewer are held."""
        if not 0 <= kv_len <= self.kv_len:
            raise ValueError(f"kv_len={kv_len}: must be between 0 and the {self.kv_len} tokens held")
        self.kv_len = kv_len

    def reset(self) -> None:
        """Forget all tokens."""
        self.kv_len = 0
