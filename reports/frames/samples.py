"""Raw samples: every series of a record, its slices, and the tidy frame with one row a sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeAlias

import pandas as pd

from gqabench.results.axes import AXES, SETTING_KEYS
from gqabench.results.columns import COLUMNS, sample_columns
from gqabench.results.statistics.samples import median, median_interval
from gqabench.results.store.baselines import MAX_SAMPLES
from gqabench.results.store.frame import pandas_dtype

Row: TypeAlias = Mapping[str, Any]

LATENCY_SERIES = "samples_ms"
"""The column whose median is the latency."""

WARM_SERIES = "warm_samples_ms"

_CACHE_STATES = {WARM_SERIES: "warm", "graph_samples_ms": "cold"}
"""Of series that have one state only: see the columns' descriptions."""

_IDENTITY = ["run_id", "case_id", "cell_id", "impl", "environment"]
_PROBLEM = [
    "model", "workload", "batch_size", "q_len", "kv_len", "num_q_heads", "num_kv_heads", "head_dim", "dtype",
    "device",
]  # fmt: skip

_SIZES = {LATENCY_SERIES: "slice_sizes", WARM_SERIES: "warm_slice_sizes"}
_FULL_SERIES = 2000
"""In records without `slice_sizes`, slices were of one call from so many samples on."""


@dataclass(frozen=True)
class Series:
    """One series of raw samples of one record."""

    row: Row
    name: str
    """The record's column: `samples_ms`, `warm_samples_ms`, ..."""
    samples_ms: Sequence[float]
    """Milliseconds, in the order of measuring."""
    slice_sizes: Sequence[int] | None
    """How many consecutive samples were taken in each slice; None where that is not known."""

    @property
    def cache_state(self) -> str | None:
        """`cold` or `warm`; None where the column does not say."""
        state = self.row["cache_state"] if self.name == LATENCY_SERIES else _CACHE_STATES.get(self.name)
        return None if state is None else str(state)

    @property
    def is_thinned(self) -> bool:
        """Whether a baseline left samples out, so that order and slices are not those of measuring."""
        return is_thinned(self.row)

    @property
    def median_ms(self) -> float:
        """The record's median; of a series without one, that of the samples."""
        stored = self.row.get(f"{self._prefix}latency_ms")
        return median(self.samples_ms) if stored is None else float(stored)

    @property
    def interval_ms(self) -> tuple[float, float] | None:
        """The 95 % interval of the median, likewise; None where too few samples give none."""
        low, high = (self.row.get(f"{self._prefix}latency_ci_{end}_ms") for end in ("low", "high"))
        if low is not None and high is not None:
            return float(low), float(high)
        interval = median_interval(self.samples_ms)
        return None if interval is None else (interval.low, interval.high)

    @property
    def slice_starts(self) -> list[int]:
        """Indices of the samples that are the first of their slice; empty where slices are not known."""
        return [] if self.slice_sizes is None else [0, *accumulate(self.slice_sizes)][:-1]

    @property
    def _prefix(self) -> str:
        return self.name.removesuffix("samples_ms")


def series_of(rows: Iterable[Row]) -> list[Series]:
    """Return every series of raw samples, record by record, in the order of the record's columns."""
    return [
        Series(row, name, row[name], slice_sizes(row, name))
        for row in rows
        for name in sample_columns()
        if row[name]
    ]


def slice_sizes(row: Row, series: str = LATENCY_SERIES) -> list[int] | None:
    """Return how many consecutive values of a series were taken in each slice, in order.

    Records say so in `slice_sizes` and `warm_slice_sizes`; older ones in `calls_per_slice` of `samples_ms`,
    since slices were of equal length. None where it is not known: neither is recorded, or samples were left
    out since.
    """
    num_samples = len(row[series] or ())
    sizes, calls = row.get(_SIZES.get(series, "")), row.get("calls_per_slice")
    if sizes is not None:
        return [int(size) for size in sizes] if sum(sizes) == num_samples else None
    if series != LATENCY_SERIES or calls is None or not num_samples or is_thinned(row):
        return None
    num_equal = min(num_samples, math.ceil(_FULL_SERIES / calls) * calls)
    whole, rest = divmod(num_equal, calls)
    return [calls] * whole + [rest] * (rest > 0) + [1] * (num_samples - num_equal)


def is_thinned(row: Row) -> bool:
    """Return whether a record's samples are those that a baseline kept: their median is not the latency."""
    samples, latency_ms = row["samples_ms"], row["latency_ms"]
    if latency_ms is None or samples is None or len(samples) != MAX_SAMPLES:
        return False
    return not math.isclose(median(samples), latency_ms, rel_tol=1e-6)


def samples_frame(series: Sequence[Series]) -> pd.DataFrame:
    """Return one row a sample: identity, problem, series, place in order and in its slice, `latency_ms`.

    `index`, `slice` and `call_in_slice` count from 0; the latter two are missing where slices are not known.
    Settings of the problem that are at their default in all records have no column.
    """
    told = [key for key in ("tp", *SETTING_KEYS) if any(_is_told(one.row, key) for one in series)]
    columns = {
        name: pd.Series(
            [one.row[name] for one in series for _ in one.samples_ms], dtype=pandas_dtype(COLUMNS[name].type)
        )
        for name in (*_IDENTITY, *_PROBLEM, *told)
    }
    places = [place for one in series for place in _places(one)]
    return pd.DataFrame(
        columns
        | {
            "series": pd.Series([one.name for one in series for _ in one.samples_ms], dtype="object"),
            "cache_state": pd.Series(
                [one.cache_state for one in series for _ in one.samples_ms], dtype="object"
            ),
            "index": pd.Series(
                [index for one in series for index in range(len(one.samples_ms))], dtype="int64"
            ),
            "slice": pd.Series([number for number, _ in places], dtype="Int64"),
            "call_in_slice": pd.Series([call for _, call in places], dtype="Int64"),
            "latency_ms": pd.Series([value for one in series for value in one.samples_ms], dtype="float64"),
        }
    )


def _places(series: Series) -> list[tuple[int | None, int | None]]:
    """Return the slice of each sample, and its place in there."""
    if series.slice_sizes is None:
        return [(None, None)] * len(series.samples_ms)
    return [(number, call) for number, size in enumerate(series.slice_sizes) for call in range(size)]


def _is_told(row: Row, key: str) -> bool:
    return row[key] is not None and row[key] != AXES[key].default
