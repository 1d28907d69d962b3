"""Numbers as text, worked by hand."""

import math

import pandas as pd
import pytest

from gqabench.reports.units import (
    FORMATTERS,
    bytes_text,
    digits_text,
    duration_text,
    energy_text,
    error_text,
    interval_text,
    listed,
    ms_text,
    plural,
    rate_text,
    ratio_text,
    times_text,
    tokens_text,
    value_text,
)
from gqabench.results.column_types import column_type
from gqabench.results.columns import COLUMNS
from gqabench.results.entries import Unit


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (65536, "64 KiB"),
        (1024**2 - 1, "1 MiB"),  # 1023.999 KiB is not written as 1024 KiB
        (int(8.06 * 1024**3), "8.06 GiB"),
        (100 * 1024**3, "100 GiB"),
        (3 * 1024**5, "3072 TiB"),
        (None, "–"),
        (math.nan, "–"),
        (pd.NA, "–"),
    ],
)
def test_bytes_are_binary_units(num_bytes, text):
    assert bytes_text(num_bytes) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123456, "0.0123"),
        (1.2345, "1.23"),
        (12.345, "12.3"),
        (123.45, "123"),
        (1234.5, "1,234"),
        (9.996, "10.0"),
        (0.09999, "0.100"),
        (0, "0"),
        (None, "–"),
    ],
)
def test_milliseconds_keep_three_digits(value, text):
    assert ms_text(value) == text


def test_fewer_digits_round_to_the_tick():
    assert digits_text(0.05, 1) == "0.05"
    assert digits_text(1000, 1) == "1,000"


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0.0032, "3.2 µs"), (0.1, "0.1 ms"), (1.5, "1.5 ms"), (2500, "2.5 s"), (math.nan, "–")],
)
def test_durations_choose_their_unit(milliseconds, text):
    assert duration_text(milliseconds) == text


def test_an_interval_is_its_two_ends():
    assert interval_text(0.73, 24.0) == "0.730 – 24.0"
    assert interval_text(1.22, 1.26) == "1.22 – 1.26"
    assert interval_text(1.2299, 1.2301) == "1.2299 – 1.2301"  # as many digits as tell them apart
    assert interval_text(1.23, 1.23) == "1.23 – 1.23"
    assert interval_text(None, 1.2) == "–"


def test_energies_choose_their_unit():
    texts = [energy_text(value) for value in (1.5, 0.0123, 4.2e-6, 3e-9, None)]
    assert texts == ["1.5 J", "12.3 mJ", "4.2 µJ", "3 nJ", "–"]


def test_factors():
    assert (ratio_text(2.345), ratio_text(32), ratio_text(1), ratio_text(math.nan)) == (
        "×2.3",
        "×32",
        "×1.0",
        "–",
    )
    assert (times_text(2.345), times_text(32), times_text(0.5), times_text(None)) == (
        "2.3×",
        "32×",
        "0.5×",
        "–",
    )


@pytest.mark.parametrize(
    ("num_tokens", "text"),
    [
        (512, "512"),
        (1000, "1,000"),
        (4096, "4K"),
        (131072, "128K"),
        (1048576, "1M"),
        (1536, "1,536"),
        (None, "–"),
    ],
)
def test_contexts_are_named_as_contexts_are(num_tokens, text):
    assert tokens_text(num_tokens) == text


def test_rates_and_errors():
    assert [rate_text(value) for value in (950, 12345, 1.2e6, 3e9, None)] == [
        "950",
        "12.3k",
        "1.2M",
        "3G",
        "–",
    ]
    assert [error_text(value) for value in (0.0012, 0.0, None)] == ["1.2e-3", "0", "–"]


def test_words():
    assert (plural(1, "row"), plural(1000, "row")) == ("1 row", "1,000 rows")
    assert [listed(list(names)) for names in ("", "a", "ab", "abc", "abcdef")] == [
        "", "a", "a and b", "a, b and c", "a, b, c, d and 2 more",
    ]  # fmt: skip


def test_every_unit_has_a_text():
    assert FORMATTERS.keys() == set(Unit)


@pytest.mark.parametrize(
    ("hint", "unit", "value", "text"),
    [
        (float | None, Unit.MS, 0.125, "0.125"),
        (float | None, Unit.SHARE, 0.87, "87 %"),
        (int | None, Unit.BYTES, 1536, "1.5 KiB"),
        (float | None, Unit.JOULES, 0.0123, "12.3 mJ"),
        (int | None, None, 7, "7"),
        (bool | None, None, True, "yes"),
        (bool | None, None, False, "no"),
        (str | None, None, "tuned", "tuned"),
        (list[str], None, ["a", "b"], "a, b"),
        (list[str] | None, None, None, "–"),
        (float | None, Unit.MS, math.nan, "–"),
        (bool | None, None, pd.NA, "–"),
    ],
)
def test_a_value_reads_by_its_type_and_unit(hint, unit, value, text):
    assert value_text(column_type("some", hint), unit, value) == text


def test_the_title_of_a_bare_number_has_its_unit():
    assert COLUMNS["latency_ms"].title == "latency (ms)"
    assert COLUMNS["peak_workspace_bytes"].title == "workspace"
    assert COLUMNS["tokens_per_s"].title == "tokens/s"
