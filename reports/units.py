"""Numbers as text, with their units. What was not measured (None, NaN, <NA>) reads `–`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from gqabench.results.column_types import ColumnType
from gqabench.results.entries import Unit

MISSING = "–"
BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def is_missing(value: Any) -> bool:
    """Return whether a scalar stands for "not measured"."""
    return value is None or bool(pd.isna(value))


def digits_text(value: float, num_digits: int = 3) -> str:
    """Return at least `num_digits` significant digits, without exponent: `0.0123`, `1.23`, `1,234`."""
    if is_missing(value):
        return MISSING
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    rounded = round(value, num_digits - 1 - magnitude)
    if abs(rounded) >= 10 ** (magnitude + 1):  # 9.996 became 10
        magnitude += 1
    return f"{value:,.{max(num_digits - 1 - magnitude, 0)}f}"


def bytes_text(num_bytes: float) -> str:
    """Return binary units: `512 B`, `1.5 KiB`, `64 MiB`. Whole numbers stand without decimals."""
    if is_missing(num_bytes):
        return MISSING
    value, unit = float(num_bytes), 0
    while unit < len(BYTE_UNITS) - 1 and abs(value) >= 1023.5:
        value, unit = value / 1024, unit + 1
    number = f"{value:.0f}" if unit == 0 or abs(value) >= 99.95 else f"{value:.3g}"
    return f"{number} {BYTE_UNITS[unit]}"


def ms_text(milliseconds: float) -> str:
    """Return milliseconds as a bare number with three significant digits or more."""
    return digits_text(milliseconds)


def duration_text(milliseconds: float) -> str:
    """Return a latency with the unit that suits it: `3.2 µs`, `1.23 ms`, `2.5 s`."""
    if is_missing(milliseconds):
        return MISSING
    if abs(milliseconds) < 0.1:
        return f"{_short(milliseconds * 1e3)} µs"
    if abs(milliseconds) < 1e3:
        return f"{_short(milliseconds)} ms"
    return f"{_short(milliseconds / 1e3)} s"


def interval_text(low: float, high: float) -> str:
    """Return both ends, to three digits or as many (up to five) as tell them apart: `0.730 – 24.0`."""
    if is_missing(low) or is_missing(high):
        return MISSING
    ends = [(digits_text(low, num_digits), digits_text(high, num_digits)) for num_digits in (3, 4, 5)]
    first, last = next((pair for pair in ends if pair[0] != pair[1]), ends[0])
    return f"{first} – {last}"


def energy_text(joules: float) -> str:
    """Return an energy with the unit that suits it: `12 µJ`, `3.4 mJ`, `1.2 J`."""
    if is_missing(joules):
        return MISSING
    for size, unit in ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ")):
        if abs(joules) >= size:
            return f"{_short(joules / size)} {unit}"
    return f"{_short(joules * 1e9)} nJ"


def ratio_text(ratio: float) -> str:
    """Return a factor in a column of factors: `×2.3`, `×32`, `×1.0`."""
    if is_missing(ratio):
        return MISSING
    return f"×{digits_text(ratio, 2)}"


def times_text(ratio: float) -> str:
    """Return a factor in running text: `2.3×`, `32×`."""
    return MISSING if is_missing(ratio) else f"{_trimmed(digits_text(ratio, 2))}×"


def percent_text(share: float) -> str:
    """Return a share of one, as a percentage: `87 %`."""
    return MISSING if is_missing(share) else f"{share * 100:.0f} %"


ROOFS = {"read_gb_per_s": "read roof", "matmul_tflop_per_s": "matrix roof"}


def roof_text(roof: str) -> str:
    """Return a measured ceiling as a reader says it; one of a later version by its column's name."""
    return ROOFS.get(roof, f"roof {roof}")


def count_text(count: float) -> str:
    """Return a whole number, thousands separated."""
    return MISSING if is_missing(count) else f"{round(count):,}"


def tokens_text(num_tokens: float) -> str:
    """Return a length in tokens: `4K` is 4096 and `1M` is 1024K, as contexts are named; others in full."""
    if is_missing(num_tokens):
        return MISSING
    whole = round(num_tokens)
    if whole >= 1024 * 1024 and whole % (1024 * 1024) == 0:
        return f"{whole // (1024 * 1024)}M"
    if whole >= 1024 and whole % 1024 == 0:
        return f"{whole // 1024}K"
    return f"{whole:,}"


def rate_text(rate: float) -> str:
    """Return a rate in decimal steps: `950`, `12.3k`, `1.2M`."""
    if is_missing(rate):
        return MISSING
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(rate) >= size:
            return f"{_short(rate / size)}{suffix}"
    return _short(rate)


def error_text(error: float) -> str:
    """Return an error with two significant digits: `1.2e-3`, `0`."""
    if is_missing(error):
        return MISSING
    number, _, exponent = f"{error:.1e}".partition("e")
    return "0" if error == 0 else f"{number}e{int(exponent)}"


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """Return `1 row`, `2 rows`, `1,000 rows`; `nouns` where an s does not make the plural."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {nouns or noun + 's'}"


def listed(names: list[str], limit: int = 4) -> str:
    """Return `a`, `a and b`, `a, b and c`; beyond `limit`: `a, b, c, d and 3 more`."""
    if len(names) > limit:
        return f"{', '.join(names[:limit])} and {len(names) - limit} more"
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def _short(value: float) -> str:
    """Return three significant digits without trailing zeros."""
    return _trimmed(digits_text(value))


def _trimmed(number: str) -> str:
    return number.rstrip("0").rstrip(".") if "." in number else number


FORMATTERS: Mapping[Unit, Callable[[float], str]] = {
    Unit.MS: ms_text,
    Unit.S: digits_text,
    Unit.BYTES: bytes_text,
    Unit.JOULES: energy_text,
    Unit.WATTS: digits_text,
    Unit.MHZ: count_text,
    Unit.CELSIUS: count_text,
    Unit.CORES: digits_text,
    Unit.TOKENS_PER_S: rate_text,
    Unit.GB_PER_S: digits_text,
    Unit.TFLOP_PER_S: digits_text,
    Unit.FLOP: rate_text,
    Unit.SHARE: percent_text,
    Unit.COUNT: count_text,
    Unit.ABSOLUTE_ERROR: error_text,
    Unit.RATIO: lambda ratio: digits_text(ratio, 2),
}
"""How a table writes a number of each unit."""


def value_text(kind: ColumnType, unit: Unit | None, value: Any) -> str:
    """Return a column's value as a table shows it: by its unit, `yes` and `no`, names, or as it is."""
    if kind.is_list:
        return ", ".join(str(one) for one in value) if value is not None else MISSING
    if is_missing(value):
        return MISSING
    if kind.scalar is bool:
        return "yes" if value else "no"
    return FORMATTERS[unit](value) if unit is not None else str(value)
