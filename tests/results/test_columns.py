"""The table of columns: each type that a column may have goes through lines, Parquet and frame."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypedDict

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gqabench.results.axes import AXES, FACET_KEYS, HEADING_KEYS, axes_of
from gqabench.results.column_types import column_type
from gqabench.results.columns import COLUMNS, columns_of
from gqabench.results.entries import Section, Shown, Unit, axis, column
from gqabench.results.record import RECORD_FIELDS
from gqabench.results.store.frame import pandas_dtype
from gqabench.results.store.parquet import arrow_type


class Colour(StrEnum):
    RED = "red"


class Parts(TypedDict):
    is_whole: bool | None
    names: list[str] | None
    num: int | None


EXAMPLES: dict[Any, Any] = {
    bool: True,
    bool | None: False,
    int: 2**53 + 1,
    int | None: 2**53 + 1,
    float: 0.1,
    float | None: 0.1,
    str: "a",
    str | None: "a",
    Colour: "red",
    Colour | None: "red",
    list[bool]: [True, False],
    list[int] | None: [1, 2],
    list[float]: [0.1, 2.0],
    list[float] | None: [0.1, 2.0],
    list[str]: ["a", "b"],
    list[str] | None: [],
    Parts: {"is_whole": False, "names": ["a"], "num": None},
    Parts | None: {"is_whole": None, "names": None, "num": 3},
}


@pytest.mark.parametrize("hint", EXAMPLES, ids=str)
def test_every_type_goes_through_lines_parquet_and_frame(hint: Any, tmp_path: Any) -> None:
    kind = column_type("some", hint)
    values = [EXAMPLES[hint], None] if kind.is_nullable else [EXAMPLES[hint]]
    assert [json.loads(json.dumps(value)) for value in values] == values
    assert all(kind.accepts(value) for value in values)
    schema = pa.schema([("some", arrow_type(kind))])
    pq.write_table(pa.Table.from_pylist([{"some": value} for value in values], schema=schema), tmp_path / "p")
    stored = [row["some"] for row in pq.read_table(tmp_path / "p").to_pylist()]
    assert stored == values
    assert all(type(one) is type(other) for one, other in zip(stored, values, strict=True))
    series = pd.Series(stored, dtype=pandas_dtype(kind))
    assert series[0] == values[0]
    assert [value is None for value in values] == list(series.isna())


@pytest.mark.parametrize(
    "hint", [dict[str, Any], dict[str, Any] | None, Any, int | str, tuple[int, ...], list[list[int]], bytes]
)
def test_any_other_type_is_refused_with_the_name_of_its_column(hint: Any) -> None:
    with pytest.raises(TypeError, match=r"some: no column can be of type .*; valid: bool, int, float"):
        column_type("some", hint)


@dataclass(frozen=True, kw_only=True)
class WithoutEntry:
    some: int = 0


@dataclass(frozen=True, kw_only=True)
class NeverNull:
    some: int = column(Section.TIME, "A number.")


@dataclass(frozen=True, kw_only=True)
class Unnamed:
    some: int | None = column(Section.TIME, "A number.", shown=(Shown.RESULTS,))


@dataclass(frozen=True, kw_only=True)
class Foreign:
    some: dict[str, Any] | None = field(default=None)


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (WithoutEntry, "some: no entry"),
        (Foreign, "some: no entry"),
        (NeverNull, r"some: its default is null, so its type must be `int \| None`"),
        (Unnamed, "some: a column of the report's tables needs a heading"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(record: type, complaint: str) -> None:
    with pytest.raises(TypeError, match=complaint):
        columns_of(record)


def test_the_table_is_of_the_record_and_says_what_each_column_is() -> None:
    assert tuple(COLUMNS) == RECORD_FIELDS
    for name, one in COLUMNS.items():
        assert one.about.endswith("."), name
        assert one.about[0].isupper() or one.about[0] == "`", name


def test_a_name_that_ends_in_a_unit_has_that_unit() -> None:
    endings = {"_ms": Unit.MS, "_bytes": Unit.BYTES, "_w": Unit.WATTS, "_mhz": Unit.MHZ, "_s": Unit.S}
    others = {"tokens_per_s", "achieved_gb_per_s", "achieved_tflop_per_s"}
    for name, one in COLUMNS.items():
        for ending, unit in endings.items():
            if name.endswith(ending) and name not in others:
                assert one.unit is unit, name
    assert all(one.unit for one in COLUMNS.values() if one.type.scalar is float and "logits" not in one.name)


def test_a_heading_is_of_one_column() -> None:
    headings = [one.heading for one in COLUMNS.values() if one.heading]
    assert len(headings) == len(set(headings))


def test_the_axes_are_columns_in_an_order_for_each_use() -> None:
    assert AXES.keys() <= COLUMNS.keys()
    assert set(FACET_KEYS) == set(HEADING_KEYS) == AXES.keys() - {"num_layers"}
    assert list(AXES)[:3] == ["model", "tp", "dtype"]
    assert list(AXES)[-4:] == ["num_kv_heads", "kv_len", "batch_size", "q_len"]
    assert FACET_KEYS[:4] == ("model", "tp", "num_kv_heads", "batch_size")


@dataclass(frozen=True, kw_only=True)
class WithAxes:
    chunk: int | None = axis("Keys of one chunk.", text="chunks of {tokens}")
    sinks: bool = axis("Whether there are sinks.", text="with sinks", default=False)


def test_an_axis_names_itself_where_its_entry_does_not() -> None:
    axes = axes_of(columns_of(WithAxes))
    chunk, sinks = axes["chunk"], axes["sinks"]
    assert (chunk.label, chunk.plural, chunk.null_text) == ("chunk", "values of chunk", "no chunk")
    assert (chunk.default, chunk.is_required, chunk.is_count) == (None, False, True)
    assert (sinks.default, sinks.is_required, sinks.is_count) == (False, True, False)
