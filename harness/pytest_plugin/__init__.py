"""A fixture for pytest-benchmark: `gqa_benchmark` measures a cell of a sweep as a benchmark of a test.

Loaded by every pytest of an environment that has gqabench, so it imports nothing until the fixture is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gqabench.harness.pytest_plugin.cell import CellBenchmark


@pytest.fixture
def gqa_benchmark(benchmark: Any) -> CellBenchmark:
    """Call it as `gqa_benchmark("sdpa", model="llama3_8b", kv_len=1024)`, keys as of `gqabench sweep`.

    Needs pytest-benchmark, whose options hold: `--benchmark-only`, `--benchmark-json`, ...
    """
    from gqabench.harness.pytest_plugin.cell import CellBenchmark

    return CellBenchmark(benchmark)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    """Add the header of a run, so that `gqabench compare` knows the machine."""
    if not any(benchmark.extra_info for benchmark in benchmarks):
        return  # none of ours, and nothing was loaded for it
    from gqabench.results.store.pytest_benchmark_file import EXTRA_KEY, HEADER_KEY

    if any(EXTRA_KEY in benchmark.extra_info for benchmark in benchmarks):
        from gqabench.harness.pytest_plugin.cell import describe_session

        output_json[HEADER_KEY] = describe_session(len(benchmarks))
