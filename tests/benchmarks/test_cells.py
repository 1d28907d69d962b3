"""Cells of a sweep under pytest-benchmark: `pytest tests/benchmarks --benchmark-only`.

The same cells, inputs and checks as `gqabench sweep`: case ids are equal, and `gqabench compare` reads the
file that `--benchmark-json FILE` writes.
"""

from __future__ import annotations

from typing import Any

import pytest

IMPLS = ("repeat_kv", "grouped_matmul", "folded_sdpa", "sdpa")
GRID = [
    {"model": "gqa_8_2", "workload": workload, "num_kv_heads": num_kv_heads, "kv_len": 256}
    for workload in ("decode", "prefill")
    for num_kv_heads in (8, 2, 1)
]


@pytest.mark.parametrize("keys", GRID, ids=lambda keys: f"{keys['workload']}-kv{keys['num_kv_heads']}")
@pytest.mark.parametrize("impl", IMPLS)
def test_cell(gqa_benchmark: Any, impl: str, keys: dict[str, Any]) -> None:
    gqa_benchmark(impl, **keys)
