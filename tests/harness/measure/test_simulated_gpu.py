"""What the harness does on CUDA, end to end, with a GPU that is simulated on the CPU (`tests/simulated_gpu`).

It shows that the paths are sound: devices, streams, graphs, memory, lost contexts, reports. What a card
really does, and how fast, is for the tests marked `gpu`; here a time is only compared with what the simulated
clock was told.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pandas as pd
import pytest

from gqabench import results
from gqabench.attention_impls.cache_folder import CACHE_VARIABLE

KNOWN = Path(__file__).with_name("known_on_cuda.py")
SLEEP_MS = 2.0
SCRATCH_BYTES = 50_000_001
"""As there."""
KNOWN_IMPLS = (
    "Plain", "ReadsBeyondTheEnd", "LeavesItsOwnStream", "SleepsAKnownTime", "AllocatesAKnownScratch",
    "ReturnsItsFirstOutput", "MapsHeadsWrongly", "ReturnsACpuTensor", "Synchronises", "FillsHalfOfTheMemory",
    "FillsHalfOfTheMemoryToo",
)  # fmt: skip
"""After the loss of a worker what was prepared is prepared again: that is `Plain`, and little else."""
SHORT = ("measure.min_rounds=2", "measure.seconds_per_arm=0.01")
SMALL = ("model=gqa_8_2", "kv_len=256", *SHORT)

ONE_CASE = ("device=cuda", "measure=smoke", *SHORT, "model=gqa_8_2", "kv_len=64")
SMOKE = ("-m", *ONE_CASE, "report=false")
PLAIN = (
    "sdpa", "sdpa_math", "repeat_kv", "grouped_matmul", "folded_sdpa", "blockwise", "paged_gather",
    "paged_grouped",
)  # fmt: skip
WITH_WINDOWS = ("sdpa", "repeat_kv", "grouped_matmul", "folded_sdpa", "blockwise", "paged_grouped")

Sweep = Callable[..., pd.DataFrame]
Finished = CompletedProcess[str]
TwoRuns = tuple[Path, list[Path], pd.DataFrame]


def impls(*names: str) -> str:
    return f"impls=[{','.join(names)}]"


def outcomes(rows: pd.DataFrame) -> dict[str, str]:
    return rows["outcome"].to_dict()


@pytest.fixture(scope="module")
def command(gqabench_on_simulated_gpu: Callable[..., Finished]) -> Callable[..., Finished]:
    return gqabench_on_simulated_gpu


@pytest.fixture(scope="module")
def sweep(command: Callable[..., Finished]) -> Sweep:
    """Records of a sweep in a folder, by implementation."""

    def run(folder: Path, *overrides: str) -> pd.DataFrame:
        finished = command(folder, "sweep", *overrides)
        assert finished.returncode == 0, finished.stderr
        frame = results.load(folder / "results" / "runs" / "latest").set_index("impl").sort_index()
        return frame.rename(index=lambda name: name.rpartition(":")[2])

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def looked_at(command: Callable[..., Finished], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """`gqabench doctor`, which measures the roofs for the sweeps after it."""
    return command(tmp_path_factory.mktemp("doctor"), "doctor")


@pytest.fixture(scope="module")
def kept_roofs(looked_at: Finished, simulated_gpu: dict[str, str]) -> Any:
    (kept,) = Path(simulated_gpu[CACHE_VARIABLE], "roofs").iterdir()
    return json.loads(kept.read_text())["roofs"]


@pytest.fixture(scope="module")
def rows(sweep: Sweep, folder: Path, kept_roofs: Any) -> pd.DataFrame:
    known = [f"{KNOWN}:{name}" for name in KNOWN_IMPLS]
    ours = ["sdpa", "repeat_kv", "grouped_matmul"]
    return sweep(folder, *SMALL, "measure.caches=[cold,warm]", "measure.energy=false", impls(*known, *ours))


def test_doctor_tells_of_the_gpu(looked_at: Finished) -> None:
    assert looked_at.returncode in (0, 1), looked_at.stderr
    assert "NVIDIA Big (simulated)" in looked_at.stdout


def test_a_gpu_is_found_and_taken(rows: pd.DataFrame, folder: Path) -> None:
    assert set(rows["device_name"]) == {"NVIDIA Big (simulated)"}
    assert set(rows["dtype"]) == {"bfloat16"}
    assert set(rows["timing_method"]) == {"cuda_events"}
    machine = json.loads((folder / "results/runs/latest/run.json").read_text())["machine"]
    assert "GPU-22222222-bbbb-4000-8000-000000000002" in json.dumps(machine)


def test_outcomes_are_those_that_are_known(rows: pd.DataFrame) -> None:
    wrong = {
        "ReturnsItsFirstOutput": "incorrect",
        "MapsHeadsWrongly": "incorrect",
        "ReadsBeyondTheEnd": "error",
        "LeavesItsOwnStream": "error",
        "ReturnsACpuTensor": "incorrect",
    }
    assert rows["outcome"].to_dict() == {impl: wrong.get(impl, "ok") for impl in rows.index}


def test_a_lost_device_is_said_to_be_that_row_s(rows: pd.DataFrame) -> None:
    assert "CUDA error" in rows.loc["ReadsBeyondTheEnd", "reason"]


def test_all_ways_of_timing_see_what_the_device_slept(rows: pd.DataFrame) -> None:
    row = rows.loc["SleepsAKnownTime"]
    for column in ("latency_ms", "warm_latency_ms", "graph_latency_ms", "eager_ms"):
        assert row[column] >= SLEEP_MS, column
    assert rows.loc["Plain", "graph_latency_ms"] < row["graph_latency_ms"]


def test_a_known_scratch_is_read_to_the_byte(rows: pd.DataFrame) -> None:
    workspace = rows.loc["AllocatesAKnownScratch", "peak_workspace_bytes"]
    assert workspace == SCRATCH_BYTES


def test_expansion_shows_as_workspace(rows: pd.DataFrame) -> None:
    cache_bytes = rows.loc["repeat_kv", "kv_cache_bytes"]
    group_size = rows.loc["repeat_kv", "group_size"]
    assert rows.loc["repeat_kv", "peak_workspace_bytes"] >= group_size * cache_bytes
    assert rows.loc["grouped_matmul", "peak_workspace_bytes"] < cache_bytes


def test_only_what_waits_for_the_device_cannot_be_captured(rows: pd.DataFrame) -> None:
    ok = rows[rows["outcome"] == "ok"]
    assert list(ok.index[ok["graph_latency_ms"].isna()]) == ["Synchronises"]
    assert "cannot be captured" in ok.loc["Synchronises", "graph_reason"]
    assert "launch_exposed" in ok.loc["Synchronises", "flags"]
    assert (ok["graph_pool_bytes"].drop("Synchronises") > 0).all()


def test_what_ran_is_told(rows: pd.DataFrame) -> None:
    assert "simulated_repeat_interleave" in rows.loc["repeat_kv", "kernels"]
    assert rows.loc["repeat_kv", "num_launches"] > rows.loc["sdpa", "num_launches"] >= 1
    assert set(rows["kernel_ms_source"].dropna()) == {"torch.profiler"}


def test_conditions_come_from_the_driver(rows: pd.DataFrame) -> None:
    ok = rows[rows["outcome"] == "ok"]
    assert (ok["clock_mhz"] > 0).all() and (ok["temperature_c"] > 0).all()
    assert (ok["device_bytes"] > 0).all()


def test_roofs_are_the_device_s_as_the_doctor_measured_them(
    rows: pd.DataFrame, folder: Path, kept_roofs: Any
) -> None:
    ok = rows[rows["outcome"] == "ok"]
    assert ok["roof"].notna().all() and ok["roof_fraction"].notna().all()
    machine = json.loads((folder / "results/runs/latest/run.json").read_text())["machine"]
    assert machine["roofs"] == {"cuda:0": kept_roofs}


def test_what_does_not_fit_beside_others_is_measured_after_them(rows: pd.DataFrame) -> None:
    is_alone = {impl: "measured_alone" in (flags or ()) for impl, flags in rows["flags"].items()}
    assert [impl for impl in is_alone if is_alone[impl]] == ["FillsHalfOfTheMemoryToo"]


def test_the_report_speaks_of_the_gpu(rows: pd.DataFrame, folder: Path) -> None:
    text = (folder / "results/runs/latest/report.md").read_text()
    assert "NVIDIA Big (simulated)" in text
    assert "ReadsBeyondTheEnd" in text


@pytest.fixture(scope="module")
def workloads(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return sweep(tmp_path_factory.mktemp("workloads"), *SMOKE, "workload=prefill,extend,layer", impls(*PLAIN))


@pytest.mark.parametrize("workload", ["prefill", "extend", "layer"])
def test_every_workload_runs(workloads: pd.DataFrame, workload: str) -> None:
    frame = workloads[workloads["workload"] == workload]
    unsupported = set() if workload == "layer" else {"folded_sdpa"}
    assert outcomes(frame) == {impl: "unsupported" if impl in unsupported else "ok" for impl in PLAIN}


@pytest.fixture(scope="module")
def dtypes(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return sweep(tmp_path_factory.mktemp("dtypes"), *SMOKE, "kv_dtype=float8_e4m3,int8", impls(*PLAIN))


@pytest.mark.parametrize("kv_dtype", ["float8_e4m3", "int8"])
def test_every_dtype_of_a_cache_runs(dtypes: pd.DataFrame, kv_dtype: str) -> None:
    expected = dict.fromkeys(PLAIN, "ok") | {"sdpa_math": "unsupported"}
    assert outcomes(dtypes[dtypes["kv_dtype"] == kv_dtype]) == expected


@pytest.fixture(scope="module")
def sizes(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """One case that fits and one that does not, with the energy of what fits."""
    folder = tmp_path_factory.mktemp("sizes")
    frame = sweep(folder, *SMOKE, "measure.energy=true", "kv_len=16384", "batch_size=1,64", impls("sdpa"))
    return frame.set_index("batch_size")


def test_a_case_too_large_for_the_device_is_a_row(sizes: pd.DataFrame) -> None:
    assert sizes["outcome"].to_dict() == {1: "ok", 64: "oom"}
    assert "CUDA out of memory" in sizes.loc[64, "reason"]


def test_energy_comes_from_the_driver(sizes: pd.DataFrame) -> None:
    row = sizes.loc[1]
    assert row["energy_source"] == "nvml"
    assert pd.notna(row["energy_j_per_call"]) or row["energy_reason"]


@pytest.fixture(scope="module")
def windows(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The capture breaks in the first case, the one with a window."""
    chosen = impls(f"{KNOWN}:Synchronises", *WITH_WINDOWS)
    return sweep(tmp_path_factory.mktemp("windows"), *SMOKE, "window=16,null", chosen)


def test_a_window_runs(windows: pd.DataFrame) -> None:
    frame = windows[windows["window"] == 16].drop("Synchronises")
    assert outcomes(frame) == dict.fromkeys(WITH_WINDOWS, "ok")


def test_a_worker_whose_capture_broke_measures_no_further_case(windows: pd.DataFrame) -> None:
    assert list(windows.loc["Synchronises", "outcome"]) == ["ok"] * 2
    assert list(windows.loc["sdpa", "outcome"]) == ["ok"] * 2
    assert windows.loc["sdpa", "graph_latency_ms"].notna().all()


PAGES = (*ONE_CASE, "page_size=16", impls("sdpa", "repeat_kv", "paged_gather", "paged_grouped"))


@pytest.fixture(scope="module")
def two_runs(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> TwoRuns:
    """Of the same cases: their folder, the runs, and the records of the second."""
    folder, runs = tmp_path_factory.mktemp("two_runs"), []
    for _ in range(2):
        frame = sweep(folder, *PAGES)
        runs.append((folder / "results/runs/latest").resolve())
    return folder, runs, frame


def test_pages_run(two_runs: TwoRuns) -> None:
    assert outcomes(two_runs[2]) == {
        "sdpa": "unsupported", "repeat_kv": "unsupported", "paged_gather": "ok", "paged_grouped": "ok",
    }  # fmt: skip


def test_two_runs_have_the_same_bytes(two_runs: TwoRuns, command: Callable[..., Finished]) -> None:
    folder, runs, _ = two_runs
    finished = command(folder, "compare", *map(str, runs), "--policy", "memory")
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_a_run_that_goes_on_on_another_gpu_tells_of_both(two_runs: TwoRuns, sweep: Sweep) -> None:
    folder = two_runs[0]
    header = folder / "results/runs/latest/run.json"
    header.write_text(header.read_text().replace("22222222-bbbb", "77777777-eeee"))
    sweep(folder, *PAGES, "resume=latest")
    machine = json.loads(header.read_text())["machine"]
    assert "22222222-bbbb" in json.dumps(machine["devices"])
    (earlier,) = machine["earlier_machines"]
    assert "77777777-eeee" in json.dumps(earlier["devices"])
    assert "earlier_machines" not in earlier
    sweep(folder, *PAGES, "resume=latest")
    assert json.loads(header.read_text())["machine"] == machine
    assert "NVIDIA Big" in (header.parent / "report.md").read_text()


def test_a_gpu_that_is_not_there_is_the_user_s_mistake(
    command: Callable[..., Finished], tmp_path: Path
) -> None:
    finished = command(tmp_path, "sweep", "device=cuda:1")
    assert finished.returncode == 2
    assert finished.stderr.splitlines() == [
        "gqabench sweep: device=cuda:1: not on this machine; valid: auto, cpu, cuda:0"
    ]
