"""Detects writes into keys and values, which belong to all implementations of a case."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

_WORDS_PER_ROW = 4096


class InputGuard:
    """Remembers what some tensors held, by checksum, and makes them anew when that has changed."""

    def __init__(self, tensors: Sequence[torch.Tensor], remake: Callable[[], Sequence[torch.Tensor]]) -> None:
        self._tensors = tensors
        self._remake = remake
        self._checksums = [checksum(tensor) for tensor in tensors]

    def restore_if_changed(self) -> bool:
        """Return whether something has written into the tensors, and restore what they held."""
        if [checksum(tensor) for tensor in self._tensors] == self._checksums:
            return False
        for tensor, remade in zip(self._tensors, self._remake(), strict=True):
            tensor.copy_(remade)
        return True


def checksum(tensor: torch.Tensor) -> int:
    """Return a number that follows from a contiguous tensor's bytes and their places.

    It takes the time of about four plain sums.

    The bytes stand as 64-bit words in a table: the sums of its rows and of its columns, each counted with an
    odd number of its own, modulo 2^64. Words that are moved change them, as a word that is written does.
    """
    as_bytes = tensor.view(-1).view(torch.uint8)
    num_whole = as_bytes.numel() // (8 * _WORDS_PER_ROW) * (8 * _WORDS_PER_ROW)
    table = as_bytes[:num_whole].view(torch.int64).view(-1, _WORDS_PER_ROW)
    rest = as_bytes[num_whole:].to(torch.int64)
    return sum(_sum_by_place(values) for values in (table.sum(1), table.sum(0), rest)) % 2**64


def _sum_by_place(values: torch.Tensor) -> int:
    odd_numbers = torch.arange(len(values), device=values.device) * 2 + 1
    return int((values * odd_numbers).sum())
