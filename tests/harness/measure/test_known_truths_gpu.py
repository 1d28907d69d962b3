"""Implementations whose time and memory are known beforehand, on a GPU: `make test-gpu`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gqabench import results

pytestmark = [pytest.mark.gpu, pytest.mark.alone]

KNOWN = Path(__file__).with_name("known_on_cuda.py")
SLEEP_MS = 2.0
SCRATCH_BYTES = 50_000_001
"""As there."""

NAMES = (
    "Plain", "SleepsAKnownTime", "AllocatesAKnownScratch", "ReturnsItsFirstOutput", "MapsHeadsWrongly",
    "ReadsBeyondTheEnd", "Synchronises", "LaunchesManyKernels",
)  # fmt: skip


@pytest.fixture(scope="module")
def rows(gqabench_in: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("truths")
    finished = gqabench_in(
        folder,
        "sweep", "device=cuda", "dtype=bfloat16", "measure=standard", "measure.caches=[cold,warm]",
        "measure.seconds_per_arm=0.5", "model=llama3_8b", "batch_size=8", "kv_len=4096",
        "impls=[" + ",".join(f"{KNOWN}:{name}" for name in NAMES) + "]",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    frame = results.load(folder / "results" / "runs" / "latest").set_index("impl")
    return frame.rename(index=lambda name: name.rpartition(":")[2])


def test_a_known_time_is_read_within_one_percent(rows: pd.DataFrame) -> None:
    slept = rows.loc["SleepsAKnownTime", "latency_ms"] - rows.loc["Plain", "latency_ms"]
    assert slept == pytest.approx(SLEEP_MS, rel=0.01)


def test_a_known_scratch_is_read_to_the_byte(rows: pd.DataFrame) -> None:
    workspace = rows.loc["AllocatesAKnownScratch", "peak_workspace_bytes"]
    assert workspace == SCRATCH_BYTES


@pytest.mark.parametrize("impl", ["ReturnsItsFirstOutput", "MapsHeadsWrongly"])
def test_wrong_outputs_are_incorrect(rows: pd.DataFrame, impl: str) -> None:
    assert rows.loc[impl, "outcome"] == "incorrect"


def test_a_lost_context_costs_one_row(rows: pd.DataFrame) -> None:
    assert rows.loc["ReadsBeyondTheEnd", "outcome"] == "error"
    assert "CUDA error" in rows.loc["ReadsBeyondTheEnd", "reason"]
    assert set(rows.loc[["Plain", "Synchronises", "LaunchesManyKernels"], "outcome"]) == {"ok"}


def test_events_graph_and_kernels_agree_where_a_call_is_long(rows: pd.DataFrame) -> None:
    row = rows.loc["SleepsAKnownTime"]
    assert row["graph_latency_ms"] == pytest.approx(row["latency_ms"], rel=0.02)
    assert row["kernel_ms"] == pytest.approx(row["latency_ms"], rel=0.02)
    assert row["eager_ms"] >= row["latency_ms"] * 0.99
    assert row["graph_pool_bytes"] > 0


def test_what_waits_for_the_device_is_flagged_and_not_captured(rows: pd.DataFrame) -> None:
    row = rows.loc["Synchronises"]
    assert row["outcome"] == "ok"
    assert "launch_exposed" in row["flags"]
    assert pd.isna(row["graph_latency_ms"])
    assert "cannot be captured" in row["graph_reason"]


def test_launches_are_hidden_however_many(rows: pd.DataFrame) -> None:
    row = rows.loc["LaunchesManyKernels"]
    assert "launch_exposed" not in row["flags"]
    assert row["latency_ms"] == pytest.approx(row["graph_latency_ms"], rel=0.25)
    assert row["eager_ms"] > row["latency_ms"]


def test_a_cold_call_is_no_faster_than_memory(rows: pd.DataFrame) -> None:
    row = rows.loc["Plain"]
    assert "warm_suspect" not in row["flags"]
    assert 0 < row["roof_fraction"] <= 1.05


def test_conditions_and_energy_come_from_the_driver(rows: pd.DataFrame) -> None:
    row = rows.loc["SleepsAKnownTime"]
    assert row["clock_mhz"] > 100
    assert row["temperature_c"] > 0
    assert row["device_bytes"] >= row["allocator_reserved_bytes"] > 0
    if pd.notna(row["energy_source"]):
        assert row["energy_source"] == "nvml"
        assert row["energy_j_per_call"] > 0 or row["energy_reason"]


def test_a_repeat_gives_the_same_bytes(gqabench_in: Callable[..., Any], tmp_path: Any) -> None:
    seen = []
    for _ in range(2):
        finished = gqabench_in(
            tmp_path,
            "sweep",
            "device=cuda",
            "measure=smoke",
            "kv_len=2048",
            "impls=[sdpa,repeat_kv,sdpa_math]",
        )
        assert finished.returncode == 0, finished.stderr
        frame = results.load(tmp_path / "results" / "runs" / "latest").set_index("impl").sort_index()
        columns = ["kv_cache_bytes", "peak_workspace_bytes", "prepared_bytes", "allocator_peak_bytes"]
        seen.append(frame[columns].to_dict())
    assert seen[0] == seen[1]
