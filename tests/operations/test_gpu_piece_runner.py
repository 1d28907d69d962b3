"""The runner of pieces under a clock, with commands that end, fail, hang and are killed: no GPU, no torch."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

OPERATIONS = Path(__file__).resolve().parents[2] / "operations"
sys.path.insert(0, str(OPERATIONS))

import gpu_pieces  # noqa: E402
import kernels_on_gpu  # noqa: E402
import model_layers  # noqa: E402
import reference_runs  # noqa: E402
from piece_runner import PieceRunner, Step, StepState, StepStates, granted_seconds  # noqa: E402
from published_figures import published_lines  # noqa: E402
from sweep_parts import expected_seconds  # noqa: E402

HANGS = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; time.sleep(600)"


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def step(name: str, code: str = "", seconds: float = 5, **more: Any) -> Step:
    return Step(name, "", python(code), seconds, **{"least_seconds": 0.5} | more)


def run(folder: Path, *steps: Step, seconds: float = 60) -> dict[str, StepState]:
    states = StepStates(folder / "steps.json")
    PieceRunner(folder, states, time.monotonic() + seconds, lambda: None).run(steps)
    return StepStates(folder / "steps.json").by_name


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("budget", "later", "left", "granted"),
    [
        (10, [], 100, 100),  # what nobody else needs
        (10, [20, 30], 100, 50),
        (10, [20, 30], 55, 10),
        (10, [20], 7, 7),
        (10, [20], 1, None),  # too little to begin with
    ],
)
def test_a_step_gets_its_budget_and_what_later_ones_leave_over(
    budget: float, later: list[float], left: float, granted: float | None
) -> None:
    others = [step("later", seconds=seconds) for seconds in later]
    assert granted_seconds(step("now", seconds=budget, least_seconds=2), others, left) == granted


def test_a_step_that_hangs_is_killed_with_its_children_and_the_next_one_runs(tmp_path: Path) -> None:
    child = tmp_path / "child"
    starts_one = (
        f"import subprocess, sys; command = [sys.executable, '-c', {HANGS!r}];"
        "process = subprocess.Popen(command, start_new_session=True);"
        f"open({str(child)!r}, 'w').write(str(process.pid)); {HANGS}"
    )
    states = run(tmp_path, step("hangs", starts_one, seconds=2), step("next", seconds=60), seconds=62)
    assert states["hangs"].state == "killed"
    assert not lives(int(child.read_text()))
    assert states["next"].state == "done"


def test_how_a_step_ended_is_told(tmp_path: Path) -> None:
    states = run(
        tmp_path,
        step("done"),
        step("ended_badly", "raise SystemExit(3)"),
        step("goes_on", is_complete=lambda: False),
        step("failed", "raise SystemExit(1)", is_complete=lambda: False),
        Step("missing", "", ("no-such-program",), 5, least_seconds=0.5),
        step("no_time", least_seconds=1000),
    )
    assert {name: (state.state, state.exit_code) for name, state in states.items()} == {
        "done": ("done", 0),
        "ended_badly": ("done", 3),
        "goes_on": ("open", 0),
        "failed": ("failed", 1),
        "missing": ("failed", None),
    }


def test_a_command_is_told_how_long_it_has(tmp_path: Path) -> None:
    told = tmp_path / "told"
    command = (*python(f"import sys; open({str(told)!r}, 'w').write(sys.argv[1])"), "{seconds}")
    run(tmp_path, Step("told", "", command, 20, closing_seconds=5, least_seconds=1), seconds=20)
    assert told.read_text() == "15"


DRIVER = """
import sys
sys.path.insert(0, {operations!r})
import gpu_pieces, gpu_verification, piece_runner
from piece_runner import Step

def step(name, code, seconds, **more):
    return Step(name, "shows " + name, (sys.executable, "-c", code), seconds, least_seconds=0.5, **more)

steps = (
    step("first", "open({found!r}, 'w').write('whole')", 2),
    step("hangs", {code!r}, 2),
    step("last", "", 3),
)
gpu_pieces.pieces = lambda *_: [gpu_pieces.Piece(1, "A piece", steps)]
gpu_verification.CLOSING_SECONDS = 5.0
piece_runner.INTERRUPTION_SECONDS = 0.3
gpu_verification.run_script(gpu_verification.main)
"""


def start_piece(folder: Path, seconds: float, code: str = HANGS) -> subprocess.Popen[str]:
    (folder / "gpu" / "rehearsal").mkdir(parents=True, exist_ok=True)
    found = str(folder / "gpu" / "rehearsal" / "found")
    driver = DRIVER.format(operations=str(OPERATIONS), found=found, code=code)
    limit = ("--since", str(time.time()), "--seconds", str(seconds))
    arguments = ("--rehearse", "--piece", "1", *limit, "--folder", str(folder / "gpu"))
    return subprocess.Popen(
        [sys.executable, "-c", driver, *arguments, "--archive", str(folder / "gpu.tar.gz")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def seconds_to_start() -> float:
    """Return how long Python and the imports of a piece take here and now."""
    started = time.monotonic()
    command = [sys.executable, str(OPERATIONS / "gpu_verification.py"), "--help"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def is_running(name: str, steps: Path) -> bool:
    states = json.loads(steps.read_text()) if steps.exists() else {}
    return states.get(name, {}).get("state") == "running"


def kept_in(archive: Path) -> dict[str, str]:
    with tarfile.open(archive) as packed:
        files = [entry for entry in packed if entry.isfile()]
        return {Path(entry.name).name: packed.extractfile(entry).read().decode() for entry in files}


@pytest.mark.alone
def test_a_piece_ends_by_itself_before_a_clock_that_kills_it(tmp_path: Path) -> None:
    limit = 9 + 3 * seconds_to_start()
    process = start_piece(tmp_path, limit)
    try:
        output, _ = process.communicate(timeout=limit)
    finally:
        process.kill()
    assert process.returncode == 0, output
    kept = kept_in(tmp_path / "gpu.tar.gz")
    assert kept["found"] == "whole"
    for row in (
        "`first` | shows first | done",
        "`hangs` | shows hangs | killed at its limit",
        "`last` | shows last | done",
    ):
        assert row in kept["verification.md"]
    assert not [name for name in kept if name.endswith(".unfinished")]
    assert "hangs: killed" in output


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_killed_piece_has_is_whole_and_the_next_call_goes_on(
    tmp_path: Path, signal_number: signal.Signals
) -> None:
    process = start_piece(tmp_path, 600)
    steps, deadline = tmp_path / "gpu" / "rehearsal" / "steps.json", time.monotonic() + 60
    while not is_running("hangs", steps) and time.monotonic() < deadline:
        time.sleep(0.05)
    hanging = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal_number)
    process.communicate(timeout=60)
    for child in hanging:
        if child.is_running():
            child.kill()  # nobody is left to do so after SIGKILL
    kept = kept_in(tmp_path / "gpu.tar.gz")
    assert kept["found"] == "whole"
    assert "`first` | shows first | done" in kept["verification.md"]
    if signal_number == signal.SIGTERM:
        assert process.returncode == 130
        assert "`hangs` | shows hangs | to be continued" in kept["verification.md"]
    again = start_piece(tmp_path, 600, code="")
    output, _ = again.communicate(timeout=120)
    assert [line.split(",")[0] for line in output.splitlines()[:2]] == ["hangs: done", "last: done"]


def test_by_arithmetic_the_steps_of_a_piece_fit() -> None:
    for piece in gpu_pieces.pieces(Path("runs"), Path("runs"), False)[:4]:
        assert sum(step.seconds for step in piece.steps) <= gpu_pieces.STEPS_SECONDS, piece.title
        for one in piece.steps:
            if one.name != "checks":
                assert one.seconds >= needed_seconds(one.name), one.name


def needed_seconds(part: str) -> float:
    """Return what a sweep needs by estimate, with the time to close where it is interrupted at its end."""
    has_energy = has_report = False
    if part in kernels_on_gpu.PARTS:
        kernel = kernels_on_gpu.PARTS[part]
        axes, impls = kernel.axes, (kernel.impl, *kernel.peers)
    elif part == model_layers.PART:
        axes, impls = ("model=" + ",".join(model_layers.LAYERS), "batch_size=32,1"), model_layers.IMPLS
    else:
        reference = (reference_runs.GLANCES | reference_runs.PARTS)[part]
        axes, impls = reference.keys, reference.impls
        has_energy, has_report = reference.has_energy, reference.has_report
        if not any(key.startswith("num_kv_heads") for key in axes):
            axes = (*axes, "num_kv_heads=32,16,8,4,2,1")  # of the study
    num_cases = 1
    for axis in axes:
        num_cases *= len(axis.split("=")[1].split(","))
    return expected_seconds(num_cases, len(impls), has_energy, has_report) + 13


def test_the_twelve_cells_hold_those_of_public_figures() -> None:
    assert kernels_on_gpu.PARTS["decode_cells"].axes == (
        "num_kv_heads=8,1",
        "batch_size=32,64,1",
        "kv_len=4096,8192",
    )


def cell(**values: Any) -> dict[str, Any]:
    return {
        "device": "NVIDIA H200", "workload": "decode", "batch_size": 32, "kv_len": 4096, "num_kv_heads": 8,
        "head_dim": 128, "dtype": "bfloat16", "kv_dtype": None, "window": None, "page_size": None,
        "latency_ms": 0.1463, "achieved_tflop_per_s": 300.0, "share_of_copy_bandwidth": 0.85,
        "best_peer": "flash_attn_3", "latency_over_best_peer": 1.04,
    } | values  # fmt: skip


@pytest.mark.parametrize(
    ("values", "row"),
    [
        ({}, "| decode, batch 32, kv 4096, bfloat16 | 133 us | 146 us | 1.10 | 0.85 | flash_attn_3 | 1.04 |"),
        ({"device": "NVIDIA H100 80GB HBM3"}, "| 186 us | 146 us | 0.79 |"),
        ({"kv_dtype": "float8_e4m3"}, "float8_e4m3 | 74.3 us | 146 us | 1.97 |"),
        ({"workload": "prefill", "best_peer": None}, "| 670 TFLOP/s | 300 TFLOP/s | 0.45 | - | - | 1.04 |"),
    ],
)  # fmt: skip
def test_a_cell_stands_beside_the_public_figure_of_its_own_card(values: dict[str, Any], row: str) -> None:
    assert row in "\n".join(published_lines([cell(**values)]))


@pytest.mark.parametrize(
    "values",
    [
        {"device": "NVIDIA A100"},
        {"device": "NVIDIA H200 (simulated)"},
        {"batch_size": 16},
        {"num_kv_heads": 1},
        {"latency_ms": None},
        {"kv_dtype": "int8"},
    ],
)
def test_other_cells_and_cards_stand_beside_none(values: dict[str, Any]) -> None:
    assert list(published_lines([cell(**values)])) == []


def test_targets_count_cells_and_compare_float8_with_the_same_shape() -> None:
    measured = {name: [] for name in kernels_on_gpu.PARTS} | {
        "decode_cells": [
            cell(kv_cache_bytes=537_000_000),
            cell(kv_cache_bytes=1, share_of_copy_bandwidth=0.1, latency_over_best_peer=1.3, batch_size=1),
        ],
        "quantised": [cell(kv_dtype="float8_e4m3", latency_ms=0.07315), cell(kv_dtype="int8")],
    }
    found = kernels_on_gpu.targets(measured)
    assert found["decode_cells"] == 2
    assert found["decode_cells_within_5_percent"] == 1
    assert found["least_share_of_copy_bandwidth_above_256_mb"] == 0.85
    assert found["least_float8_gain"] == pytest.approx(2)
    assert found["worst_prefill_over_best_peer"] is None


def test_a_model_layer_tells_its_fastest_and_who_did_not_run() -> None:
    import pandas as pd

    rows = pd.DataFrame(
        {
            "model": "qwen3_32b",
            "batch_size": 32,
            "impl": ["triton_decode", "flash_attn_3", "cudnn_paged"],
            "outcome": ["ok", "ok", "unsupported"],
            "reason": [None, None, "no window"],
            "latency_ms": [0.2, 0.1, None],
            "achieved_gb_per_s": [1000.0, 2000.0, None],
            "kv_len": 8192,
            "kv_cache_bytes_model_all_layers": 64.0,
        }
    )
    told = model_layers.layer(rows, 4000.0)
    assert (told["best"], told["share_of_copy_bandwidth"]) == ("flash_attn_3", 0.5)
    assert told["latency_ms"] == {"triton_decode": 0.2, "flash_attn_3": 0.1, "cudnn_paged": None}
    assert told["not_ok"] == {"cudnn_paged": "no window"}
    assert json.dumps(told)


def test_a_kernel_that_fails_is_named() -> None:
    failed = cell(outcome="incorrect", reason="the error exceeds the budget 3 times")
    assert kernels_on_gpu.failures_of({"decode_cells": [failed, failed]}) == [
        "decode_cells: triton_decode is incorrect: the error exceeds the budget 3 times"
    ]
