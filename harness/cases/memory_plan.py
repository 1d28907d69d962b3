"""What fits a memory budget, by shape and number of KV heads: for `gqabench plan` and `gqabench.plan`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gqabench.attention_impls import InvalidCombination, InvalidProblem
from gqabench.attention_impls.problem import divisors
from gqabench.harness.cases.capacity import Capacity, capacity
from gqabench.harness.cases.plan import make_problem, require_counts
from gqabench.harness.errors import UsageError
from gqabench.harness.machine.devices import AUTO

DEFAULT_DTYPE = "bfloat16"
"""Of a cache whose dtype is `auto`: where it will run, and hence the dtype, is not known here."""


@dataclass(frozen=True)
class PlanRow:
    """One number of KV heads."""

    num_kv_heads: int
    group_size: int | None
    """None where there is no such model"""
    is_asked: bool
    """Whether the model, or a key, names this number; the others stand beside it for comparison."""
    fits: Capacity | None
    reason: str | None = None
    """Why there is no such model; None where there is"""

    @property
    def kind(self) -> str | None:
        """`MHA`, `GQA` or `MQA`; None where there is no such model."""
        if self.group_size is None:
            return None
        return "MHA" if self.group_size == 1 else "MQA" if self.num_kv_heads == 1 else "GQA"


@dataclass(frozen=True)
class PlanTable:
    """One shape: its keys, and what fits by number of KV heads."""

    values: dict[str, Any]
    """By key of a sweep, `dtype` resolved; `num_kv_heads` is that of the rows."""
    rows: tuple[PlanRow, ...]


def plan_memory(
    points: Sequence[dict[str, Any]], budget_bytes: int, are_heads_given: bool
) -> list[PlanTable]:
    """Return what `budget_bytes` of one device hold, a table for each shape among the points of a sweep.

    Points that differ in `num_kv_heads` alone share a table. Where the user gave no number of KV heads, it
    has all that divide the query heads. Raises `UsageError` for a value that is never valid, and where
    nothing that was asked for is a model.
    """
    for values in points:
        require_counts(values)
        if values["num_layers"] is None:
            raise UsageError("num_layers=null: must be a positive whole number, or name a model")
    tables = []
    for shape, asked in _shapes(points):
        values = shape | {"dtype": DEFAULT_DTYPE if shape["dtype"] == AUTO else shape["dtype"]}
        heads = asked if are_heads_given else divisors(values["num_q_heads"])[::-1]
        rows = tuple(
            _row(values, num_kv_heads, num_kv_heads in asked, budget_bytes) for num_kv_heads in heads
        )
        tables.append(PlanTable(values, rows))
    all_rows = [row for table in tables for row in table.rows]
    if all(row.fits is None for row in all_rows):
        raise UsageError(f"{all_rows[0].reason}")
    return tables


def _shapes(points: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """Each shape with the numbers of KV heads that were asked for."""
    shapes: list[tuple[dict[str, Any], list[int]]] = []
    for values in points:
        if shapes and _without_kv_heads(values) == _without_kv_heads(shapes[-1][0]):
            shapes[-1][1].append(values["num_kv_heads"])
        else:
            shapes.append((values, [values["num_kv_heads"]]))
    yield from shapes


def _without_kv_heads(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "num_kv_heads"}


def _row(values: dict[str, Any], num_kv_heads: int, is_asked: bool, budget_bytes: int) -> PlanRow:
    of_row = {"device": "cpu", "num_kv_heads": num_kv_heads}  # where it runs changes no number
    try:
        problem = make_problem(values | of_row)
    except InvalidCombination as error:
        return PlanRow(num_kv_heads, None, is_asked, None, str(error))
    except InvalidProblem as error:
        raise UsageError(str(error)) from error
    fits = capacity(problem, values["num_layers"], budget_bytes)
    return PlanRow(num_kv_heads, values["num_q_heads"] // num_kv_heads, is_asked, fits)
