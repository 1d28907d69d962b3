"""The attention problem: one shape, dtype, device and mask, which checks itself. Imports no torch."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass
from numbers import Real
from typing import Any

DTYPE_ITEMSIZES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of one element of a problem's queries, outputs and (unless `kv_dtype` says otherwise) cache."""

KV_DTYPE_ITEMSIZES = {"int8": 1, "float8_e4m3": 1}
"""Bytes of one element of a quantised cache; its scales are counted apart."""

_COUNTS = ("batch_size", "q_len", "kv_len", "num_q_heads", "num_kv_heads", "head_dim")
_DEVICE_PATTERN = re.compile(r"cpu|cuda(:\d+)?")


class InvalidProblem(ValueError):
    """A value that no attention problem can have. The message names the key, the value and what is valid."""


class InvalidCombination(InvalidProblem):
    """Values that are each valid, but not together. In a sweep such a point becomes a row, not an error."""


@dataclass(frozen=True)
class AttentionProblem:
    """What an implementation is asked to compute.

    Shapes: queries `[batch_size, num_q_heads, q_len, head_dim]`, keys and values
    `[batch_size, num_kv_heads, kv_len, head_dim]`. Query head `h` reads key/value head
    `h // group_size` (Ainslie et al. 2023, arXiv 2305.13245, section 2.2).

    Query `i` of sequence `b` sits at absolute position `p = kv_len_of(b) - q_len + i` (bottom-right
    alignment) and sees key `j` when

    - `j < kv_len_of(b)`;
    - `j <= p`, if `causal` or a `window` is set;
    - `j > p - window`, if a `window` is set (Mistral's sliding window, `p` itself included).

    A query that sees no key (possible where `kv_lens[b] < q_len`) has output zero.

    Raises `InvalidProblem` or `InvalidCombination` (both `ValueError`) on construction.
    """

    batch_size: int
    q_len: int
    kv_len: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    dtype: str
    device: str
    causal: bool = True
    window: int | None = None
    softmax_scale: float | None = None
    """Factor of the logits; None means `1 / sqrt(head_dim)`."""
    logits_soft_cap: float | None = None
    """`c` maps logits `x` to `c * tanh(x / c)` before the mask (Gemma 2, arXiv 2408.00118, section 2)."""
    kv_lens: tuple[int, ...] | None = None
    """Tokens that exist in each sequence; None means `kv_len` in all."""
    kv_dtype: str | None = None
    """Storage of the cache; None means `dtype`."""
    page_size: int | None = None
    """Tokens of one cache page; None leaves the layout to the implementation."""

    def __post_init__(self) -> None:
        self._normalise()
        self._check_values()
        self._check_combination()

    @property
    def group_size(self) -> int:
        """Query heads that share one key/value head: 1 is MHA, `num_q_heads` is MQA."""
        return self.num_q_heads // self.num_kv_heads

    @property
    def phase(self) -> str:
        """`decode` (one new token), `prefill` (nothing cached) or `extend` (in between)."""
        if self.q_len == 1:
            return "decode"
        return "prefill" if self.q_len == self.kv_len else "extend"

    @property
    def scale(self) -> float:
        """The factor of the logits, with its default filled in."""
        return 1.0 / math.sqrt(self.head_dim) if self.softmax_scale is None else self.softmax_scale

    @property
    def device_type(self) -> str:
        """`cpu` or `cuda`, without the index."""
        return self.device.partition(":")[0]

    @property
    def itemsize(self) -> int:
        """Bytes of one element of queries and outputs."""
        return DTYPE_ITEMSIZES[self.dtype]

    @property
    def kv_itemsize(self) -> int:
        """Bytes of one element of the cache."""
        return self.itemsize if self.kv_dtype is None else KV_DTYPE_ITEMSIZES[self.kv_dtype]

    @property
    def is_ragged(self) -> bool:
        """Whether some sequence is shorter than `kv_len`."""
        return self.kv_lens is not None and any(length != self.kv_len for length in self.kv_lens)

    def kv_len_of(self, sequence: int) -> int:
        """Return the number of tokens in one sequence."""
        return self.kv_len if self.kv_lens is None else self.kv_lens[sequence]

    def _normalise(self) -> None:
        """Convert numbers of other libraries (NumPy's) to Python's, and a list of lengths to a tuple."""
        for key in (*_COUNTS, "window", "page_size"):
            object.__setattr__(self, key, _as_int(getattr(self, key)))
        for key in ("softmax_scale", "logits_soft_cap"):
            object.__setattr__(self, key, _as_float(getattr(self, key)))
        if isinstance(self.kv_lens, (list, tuple)):
            object.__setattr__(self, "kv_lens", tuple(_as_int(length) for length in self.kv_lens))

    def _check_values(self) -> None:
        for key in _COUNTS:
            _require_count(key, getattr(self, key))
        for key in ("window", "page_size"):
            if getattr(self, key) is not None:
                _require_count(key, getattr(self, key), or_none=True)
        _require_choice("dtype", self.dtype, list(DTYPE_ITEMSIZES))
        if self.kv_dtype is not None:
            _require_choice("kv_dtype", self.kv_dtype, [*KV_DTYPE_ITEMSIZES, "null"])
        if not isinstance(self.device, str) or not _DEVICE_PATTERN.fullmatch(self.device):
            raise InvalidProblem(f"device={self.device}: must be cpu, cuda or cuda:N")
        for key in ("softmax_scale", "logits_soft_cap"):
            value = getattr(self, key)
            if value is not None and not (isinstance(value, float) and math.isfinite(value) and value > 0):
                raise InvalidProblem(f"{key}={value}: must be a positive number or null")
        if not isinstance(self.causal, bool):
            raise InvalidProblem(f"causal={self.causal}: must be true or false")
        if self.kv_lens is not None:
            if not isinstance(self.kv_lens, tuple):
                raise InvalidProblem(f"kv_lens={self.kv_lens}: must be one length per sequence, or null")
            if not all(_is_count(length) for length in self.kv_lens):
                raise InvalidProblem(
                    f"kv_lens={list(self.kv_lens)}: each must be a whole number"
                    f" between 1 and kv_len={self.kv_len}"
                )

    def _check_combination(self) -> None:
        if self.num_q_heads % self.num_kv_heads:
            raise InvalidCombination(
                f"num_kv_heads={self.num_kv_heads}: must divide num_q_heads={self.num_q_heads};"
                f" valid: {', '.join(map(str, divisors(self.num_q_heads)))}"
            )
        if self.q_len > self.kv_len:
            raise InvalidCombination(
                f"q_len={self.q_len}: must not exceed kv_len={self.kv_len}, which counts the new tokens too"
            )
        if self.kv_lens is not None:
            if len(self.kv_lens) != self.batch_size:
                raise InvalidCombination(
                    f"kv_lens={list(self.kv_lens)}: must have batch_size={self.batch_size} lengths"
                )
            if max(self.kv_lens) > self.kv_len:
                raise InvalidCombination(
                    f"kv_lens={list(self.kv_lens)}: each must be between 1 and kv_len={self.kv_len}"
                )


def divisors(number: int) -> list[int]:
    """Return the divisors of a positive number, ascending."""
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]


def _as_int(value: Any) -> Any:
    """Convert a whole number of any type to int; return anything else, and a bool, unchanged."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return value
    try:
        return operator.index(value)
    except TypeError:  # for example, an array of several numbers
        return value


def _as_float(value: Any) -> Any:
    """Convert a real number of any type to float; return anything else, and a bool, unchanged."""
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _require_count(key: str, value: object, *, or_none: bool = False) -> None:
    if not _is_count(value):
        raise InvalidProblem(f"{key}={value}: must be a positive whole number{' or null' if or_none else ''}")


def _require_choice(key: str, value: object, choices: list[str]) -> None:
    if value not in choices:
        raise InvalidProblem(f"{key}={value}: must be one of {', '.join(choices)}")
