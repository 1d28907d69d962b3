"""A preallocated, contiguous KV cache of one layer.

Shape suffixes: B batch, G key/value heads, L new tokens, K tokens held, D head_dim.
"""

from __future__ import annotations

import torch


class KvCache:
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
        shape = (max_batch_size, num_kv_heads, max_kv_len, head_dim)
        self._k = torch.zeros(shape, dtype=dtype, device=device)
        self._v = torch.zeros(shape, dtype=dtype, device=device)
        self.kv_len = 0
        """Tokens held in each sequence."""

    @property
    def max_kv_len(self) -> int:
        return self._k.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes that the cache occupies, filled or not."""
        return self._k.nbytes + self._v.nbytes

    def append(self, k_BGLD: torch.Tensor, v_BGLD: torch.Tensor) -> None:
        """Store `L` more tokens of each sequence. Raises `ValueError` where they do not fit."""
        batch_size, _, num_tokens, _ = k_BGLD.shape
        self.require_room(batch_size, num_tokens)
        end = self.kv_len + num_tokens
        self._k[:batch_size, :, self.kv_len : end] = k_BGLD
        self._v[:batch_size, :, self.kv_len : end] = v_BGLD
        self.kv_len = end

    def require_room(self, batch_size: int, num_tokens: int) -> None:
        """Raise `ValueError` unless `num_tokens` more tokens of `batch_size` sequences fit."""
        if batch_size > self._k.shape[0]:
            raise ValueError(f"batch_size={batch_size}: must not exceed max_batch_size={self._k.shape[0]}")
        end = self.kv_len + num_tokens
        if end > self.max_kv_len:
            raise ValueError(
                f"kv_len={end}: must not exceed max_kv_len={self.max_kv_len}; the cache holds {self.kv_len}"
                f" tokens and has no room for {num_tokens} more"
            )

    def held(self, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the first `batch_size` sequences: views `[B, G, K, D]` of the cache."""
        return self._k[:batch_size, :, : self.kv_len], self._v[:batch_size, :, : self.kv_len]

    def rewind(self, kv_len: int) -> None:
        """Forget all but the first `kv_len` tokens. Raises `ValueError` where there are not so many."""
        if not 0 <= kv_len <= self.kv_len:
            raise ValueError(f"kv_len={kv_len}: must be between 0 and the {self.kv_len} tokens held")
        self.kv_len = kv_len

    def reset(self) -> None:
        """Forget all tokens."""
        self.kv_len = 0
