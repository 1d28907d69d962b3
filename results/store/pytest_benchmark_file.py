"""pytest-benchmark's JSON: the records in it. `gqabench.results.pytest_benchmark_export` writes such files.

A file written here, or by the fixture `gqa_benchmark`, keeps each record whole in its benchmark's
`extra_info`, and the run's header beside the benchmarks. Its `stats.data` are seconds, one a round.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gqabench.results.record import Record
from gqabench.results.store.run_folder import RunHeader
from gqabench.results.store.schema_versions import upgrade

if TYPE_CHECKING:
    import pandas as pd

EXTRA_KEY = "gqabench_record"
HEADER_KEY = "gqabench_run"


def extra_info(record: Record) -> dict[str, Any]:
    """Return what a benchmark tells beside its rounds: the kernel's time, memory, and the whole record."""
    return {
        "case_id": record.case_id,
        "impl": record.impl,
        "kernel_ms": record.latency_ms,
        "kv_cache_bytes": record.kv_cache_bytes,
        "peak_workspace_bytes": record.peak_workspace_bytes,
        EXTRA_KEY: record.to_dict(),
    }


def from_pytest_benchmark(path: str | Path) -> pd.DataFrame:
    """Return the records in a file of pytest-benchmark, as a frame like that of `gqabench.load`.

    Raises `ValueError` for a file that is none, or that holds no benchmark of gqabench.
    """
    from gqabench.results.store.frame import records_to_frame

    return records_to_frame(read_pytest_benchmark(Path(path))[0])


def read_pytest_benchmark(path: Path) -> tuple[list[dict[str, Any]], list[RunHeader]]:
    """Return records as plain rows, and the run's header. Raises as `from_pytest_benchmark`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("benchmarks"), list):
        raise ValueError(f"{path}: not a file of pytest-benchmark")
    extras = [one.get("extra_info") for one in content["benchmarks"] if isinstance(one, dict)]
    rows = [upgrade(extra[EXTRA_KEY]) for extra in extras if isinstance(extra, dict) and EXTRA_KEY in extra]
    if not rows:
        raise ValueError(f"{path}: no benchmark of it was measured with gqa_benchmark")
    return rows, [RunHeader.from_dict(content[HEADER_KEY])] if HEADER_KEY in content else []
