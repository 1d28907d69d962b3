"""The scripts that are run on a GPU host, rehearsed on a simulated GPU: what they write is sound."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gqabench import results
from gqabench.results.record import LATENCY_FIELDS
from tests.harness.forked_command import Started
from tests.operations import forked_scripts

OPERATIONS = Path(__file__).resolve().parents[2] / "operations"
sys.path.insert(0, str(OPERATIONS))

import sweep_parts  # noqa: E402
from sweep_parts import Parts, positive_seconds  # noqa: E402

KV_BYTES = 30_000_000

Script = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[[Sequence[object]], Started]


@pytest.fixture(scope="module")
def script(python: Script) -> Script:
    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return python(OPERATIONS / name, *arguments)

    return run


@dataclass(frozen=True)
class Interrupted:
    """A part's first call, which was interrupted as soon as it had a record, and its run."""

    returncode: int
    errors: str
    status: str
    num_records: int


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reference")


@pytest.fixture(scope="module")
def interrupted(script: Script, start_python: Start, folder: Path) -> Interrupted:
    arguments = ("reference_runs.py", "--rehearse", "--runs", folder, "--part", "kv_heads_decode")
    too_early = script(*arguments, "--seconds", 0.1)
    assert "kv_heads_decode: interrupted; ask for it again" in too_early.stdout
    started = start_python([OPERATIONS / arguments[0], *arguments[1:]])
    part, deadline = folder / "rehearsal" / "kv_heads_decode", time.monotonic() + 120
    while (
        not any(path.stat().st_size for path in part.glob("*/records/*.jsonl"))
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    os.kill(started.pid, signal.SIGTERM)
    finished = started.finish(timeout=120)
    (run,) = runs_of(part)
    status = json.loads((run / "run.json").read_text())["status"]
    return Interrupted(finished.returncode, finished.stderr, status, len(results.load(run)))


@pytest.fixture(scope="module")
def runs(script: Script, interrupted: Interrupted, folder: Path) -> Path:
    """Piece 2, whose first part was interrupted before: it goes on until it is complete."""
    piece = script("gpu_verification.py", "--rehearse", "--folder", folder, "--piece", 2)
    assert piece.returncode == 0, piece.stdout + piece.stderr
    assert "3 of 3 steps are done" in piece.stdout
    return folder / "rehearsal"


def runs_of(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/run.json") if not path.parent.is_symlink())


def test_an_interruption_keeps_what_was_begun(interrupted: Interrupted) -> None:
    assert interrupted.returncode == 130
    assert "Traceback" not in interrupted.errors
    assert interrupted.status != "running"
    assert interrupted.num_records > 0


def test_an_interrupted_part_goes_on_in_its_own_run(runs: Path) -> None:
    (run,) = runs_of(runs / "kv_heads_decode")
    frame = results.load(run)
    assert len(frame) == 6
    assert set(frame["device_name"]) == {"NVIDIA Big (simulated)"}
    assert not (run / "report.html").exists(), "it takes time of the GPU, and is written from the records"


def test_claims_tell_what_was_found(runs: Path) -> None:
    claims = json.loads((runs / "claims.json").read_text())
    assert claims["rehearsal"] is True
    assert claims["decode_of"].endswith("batch 1, kv_len 48, bfloat16, NVIDIA Big (simulated)")
    cache = claims["cache_bytes_by_kv_heads"]
    assert cache["8"] == [8 * cache["1"][0]]
    assert claims["decode_ms_relative_to_mha"]["sdpa"]["8"] == 1
    assert claims["outcomes"] == {"ok": 10, "unsupported": 2}
    assert list(claims["not_ok"]) == ["folded_sdpa"]
    for metric in ("peak_workspace_bytes", "kv_cache_bytes", "outcome"):
        assert (claims["equal_runs"][metric]["verdicts"], claims["equal_runs"][metric]["alarms"]) == (6, 0)


def test_complete_studies_become_baselines(runs: Path, script: Script, tmp_path: Path) -> None:
    finished = script("reference_runs.py", "--baselines", "--runs", runs, "--into", tmp_path)
    assert finished.returncode == 0, finished.stderr
    (baseline,) = tmp_path.glob("*/kv_heads")
    assert set(results.load(baseline)["phase"]) == {"decode", "prefill"}
    assert "models: not complete: models_decode, models_prefill" in finished.stdout


def test_a_rehearsal_becomes_no_baseline_of_the_project(runs: Path, script: Script) -> None:
    finished = script("reference_runs.py", "--baselines", "--runs", runs)
    assert finished.returncode == 2
    assert "a rehearsal becomes no baseline" in finished.stderr


def test_what_failed_is_tried_once_more(runs: Path, script: Script, tmp_path: Path) -> None:
    folder = tmp_path / "rehearsal"
    shutil.copytree(runs / "again", folder / "again", symlinks=True)
    (run,) = runs_of(folder / "again")
    failed = {"outcome": "oom", "reason": "made up", **dict.fromkeys(LATENCY_FIELDS)}
    for path in (run / "records").glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [row | failed if row["num_kv_heads"] == 1 else row for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "records.parquet").unlink()
    assert list(results.load(run)["outcome"]) == ["ok"] * 3 + ["oom"] * 3
    common = ("reference_runs.py", "--rehearse", "--runs", tmp_path, "--part", "again")
    finished = script(*common)
    assert finished.returncode == 0, finished.stderr
    assert list(results.load(run)["outcome"]) == ["ok"] * 3 + ["oom"] * 3 + ["ok"] * 3
    frame = Parts(folder).frame_of(["again"])
    assert frame is not None
    assert list(frame["outcome"]) == ["ok"] * 6, "what was measured again replaces what failed"
    assert script(*common).stdout.startswith("again: complete")


def test_a_part_that_is_being_measured_is_left_alone(script: Script, tmp_path: Path) -> None:
    part = tmp_path / "rehearsal" / "again"
    part.mkdir(parents=True)
    with (part / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        finished = script("reference_runs.py", "--rehearse", "--runs", tmp_path, "--part", "again")
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1] == "again: another process is measuring it"


def test_a_sweep_that_fails_is_not_told_as_an_interrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_parts, "PROGRAM", [sys.executable, "-c", "raise AssertionError"])
    with pytest.raises(SystemExit, match="again: the sweep ended with exit code 1"):
        Parts(tmp_path).measure("again", [], 60)


def test_a_sweep_that_is_interrupted_as_it_starts_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep_parts, "PROGRAM", [sys.executable, "-c", "import time; time.sleep(60)"])
    assert not Parts(tmp_path).measure("again", [], 0.3)
    assert capsys.readouterr().out == "again: interrupted; ask for it again\n"


@pytest.mark.parametrize("name", ["coldness_by_counters.py", *forked_scripts.SCRIPTS])
def test_each_script_starts_by_itself_from_anywhere(name: str, tmp_path: Path) -> None:
    command = [sys.executable, OPERATIONS / name, "--help"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.startswith(f"usage: {name}")


def test_seconds_are_a_positive_number(script: Script, tmp_path: Path) -> None:
    finished = script("reference_runs.py", "--runs", tmp_path, "--seconds=nan")
    assert finished.returncode == 2
    assert "must be a positive number of seconds" in finished.stderr


@pytest.mark.parametrize("seconds", ["nan", "0", "-5", "inf"])
def test_no_other_number_of_seconds_is_taken(seconds: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a positive number of seconds"):
        positive_seconds(seconds)


def fake_ncu(path: Path, cold_bytes: float, warm_bytes: float) -> Path:
    """A profiler that prints what Nsight Compute 2025.3 prints, and runs nothing."""
    line = (
        '"{id}","7","python3","127.0.0.1","a_kernel","1","7","(1, 1, 1)","(1, 1, 1)","0","9.0","Command line"'
    )
    line += ',"dram__bytes_read.sum","{unit}","{value}"'
    heading = '"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size"'
    heading += ',"Grid Size","Device","CC","Section Name","Metric Name","Metric Unit","Metric Value"'
    for state, value in (("cold", cold_bytes), ("warm", warm_bytes)):
        of_kernels = [
            line.format(id=0, unit="Mbyte", value=f"{value / 2e6:.2f}"),
            line.format(id=1, unit="Kbyte", value=f"{value / 2e3:,.2f}"),
        ]
        said = "\n".join(["==PROF== Connected to process 7", heading, *of_kernels])
        path.with_name(f"{state}.csv").write_text(f"{said}\n")
    path.write_text(
        "#!/bin/sh\nfor state; do :; done  # the last argument\n"
        f'cat "{path.parent}/$state.csv"\necho kv_bytes {KV_BYTES} >&2\n'
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("cold", "warm", "is_sound"), [(1.0, 0.01, True), (0.6, 0.01, False), (1.0, 0.9, False)]
)
def test_counters_tell_whether_a_flush_is_sound(
    script: Script, tmp_path: Path, cold: float, warm: float, is_sound: bool
) -> None:
    ncu = fake_ncu(tmp_path / "ncu", cold * KV_BYTES, warm * KV_BYTES)
    finished = script("coldness_by_counters.py", "--ncu", ncu, "--json", tmp_path / "coldness.json")
    report: dict[str, Any] = json.loads((tmp_path / "coldness.json").read_text())
    assert finished.returncode == int(not is_sound), finished.stderr
    assert set(report["flush_is_sound"].values()) == {is_sound}
    for shares in report["share_of_kv_read_from_dram"].values():
        assert shares == {"cold": pytest.approx(cold, rel=0.01), "warm": pytest.approx(warm, rel=0.01)}
