"""The pieces of `make gpu-verification`, rehearsed on a simulated GPU with tiny problems."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OPERATIONS = Path(__file__).resolve().parents[2] / "operations"
sys.path.insert(0, str(OPERATIONS))

import quick_checks  # noqa: E402

Rehearse = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def rehearse(python: Rehearse) -> Rehearse:
    def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        return python(OPERATIONS / "gpu_verification.py", "--rehearse", "--folder", folder, *arguments)

    return run


def page_of(folder: Path) -> str:
    return (folder / "rehearsal" / "verification.md").read_text()


def checks_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_piece_1_checks_everything_once_and_reports_a_sweep(rehearse: Rehearse, tmp_path: Path) -> None:
    folder, archive = tmp_path / "g p,u=[1]", tmp_path / "kept" / "gpu.tar.gz"
    finished = rehearse(
        folder, "--piece", 1, "--step", "checks", "--step", "end_to_end", "--archive", archive
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert [path.name for path in folder.iterdir()] == ["rehearsal"]  # nothing of it counts as measured
    lines = {line["name"]: line for line in checks_of(folder / "rehearsal" / "checks.jsonl")}
    assert list(lines)[:3] == ["device", "nvml", "sdpa_flash decode"]
    assert len(lines) == 28
    assert {line["outcome"] for line in lines.values()} <= {"ok", "unsupported", "failed"}
    assert lines["sdpa decode"]["outcome"] == "ok"
    assert 0 < lines["sdpa decode"]["seen"]["error_ratio"] < 1
    assert lines["sdpa decode"]["seen"]["kernels"] == ["simulated_scaled_dot_product_attention"]
    assert lines["nvml"]["seen"]["energy_period_s"] == pytest.approx(0.1, abs=0.05)
    assert lines["flash_attn_3 decode"]["outcome"] == "unsupported"
    page = page_of(folder)
    assert "A rehearsal" in page
    assert "NVIDIA Big, compute capability 9.0" in page
    assert "| sdpa prefill | ok |" in page
    assert "`end_to_end` | a sweep with graph timing, memory, energy, roofs, a report | done |" in page
    with tarfile.open(archive) as packed:
        names = packed.getnames()
    for name in ("verification.md", "checks.jsonl", "steps.json", "claims.json"):
        assert f"{folder.name}/rehearsal/{name}" in names
    assert any(name.endswith("report.html") for name in names)
    assert list(folder.glob("rehearsal/end_to_end/*/figures/*.png"))
    assert not any(name.endswith((".png", ".parquet")) for name in names)  # made again from the records


SUBJECTS = """
import os, time

class Hangs:
    name = "hangs"
    def unsupported_reasons(self, problem): return []
    def prepare(self, problem, inputs): time.sleep(600)

class Dies(Hangs):
    def prepare(self, problem, inputs): os._exit(7)
"""
DRIVER = """
import sys
sys.path.insert(0, {operations!r})
import quick_checks

def check(impl, seconds):
    def see(bench, ends_at):
        return quick_checks.see_attention(bench, ends_at, "decode", impl)
    return quick_checks.Check(impl, seconds, see)

hangs, dies = check({subjects!r} + ":Hangs", 1), check({subjects!r} + ":Dies", 60)
quick_checks.checks = lambda: [hangs, dies, check("sdpa", 60)]
quick_checks.run_script(quick_checks.main)
"""


def fail(*_: object) -> dict[str, Any]:
    raise AssertionError("only asked whether it is open")


def test_a_check_that_hangs_or_dies_is_reported_and_the_next_one_is_made(
    python: Rehearse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects, report = tmp_path / "subjects.py", tmp_path / "checks.jsonl"
    subjects.write_text(SUBJECTS)
    driver = DRIVER.format(operations=str(OPERATIONS), subjects=str(subjects))
    finished = python("-c", driver, "--rehearse", "--json", report)
    assert finished.returncode == 0, finished.stderr
    hangs, dies, sdpa = checks_of(report)
    assert (hangs["outcome"], dies["outcome"], sdpa["outcome"]) == ("timeout", "crashed", "ok")
    assert hangs["seconds"] < 10
    assert "exited with code 7" in dies["reason"]
    names = ["hangs", "dies", "sdpa"]
    monkeypatch.setattr(quick_checks, "checks", lambda: [quick_checks.Check(name, 1, fail) for name in names])
    assert [check.name for check in quick_checks.open_checks(report)] == ["hangs", "dies"]


def test_piece_3_measures_our_kernels_in_the_interpreter(rehearse: Rehearse, tmp_path: Path) -> None:
    finished = rehearse(tmp_path, "--piece", 3)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "3 of 3 steps are done" in finished.stdout
    report = json.loads((tmp_path / "rehearsal" / "kernels.json").read_text())
    assert report["rehearsal"] is True
    assert {len(report[part]) for part in ("decode_cells", "quantised", "prefill")} == {1, 2}
    assert {
        cell["outcome"] for part in ("decode_cells", "quantised", "prefill") for cell in report[part]
    } == {"ok"}
    assert "No cell of a card with public figures was measured." in page_of(tmp_path)


def test_piece_4_measures_layers_and_names_what_is_left_out(rehearse: Rehearse, tmp_path: Path) -> None:
    finished = rehearse(tmp_path, "--piece", 4)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    report = json.loads((tmp_path / "rehearsal" / "models.json").read_text())
    assert [layer["model"] for layer in report["layers"]] == ["qwen3_32b", "gpt_oss_120b_s128"]
    assert all(layer["best"] == "sdpa" for layer in report["layers"])
    page = page_of(tmp_path)
    assert "Left out, gpt-oss-120b: the sinks" in page
    assert "Left out, DeepSeek: all of it" in page


def test_piece_5_goes_on_with_what_is_open(rehearse: Rehearse, tmp_path: Path) -> None:
    first = rehearse(tmp_path, "--piece", 5, "--step", "coldness", "--step", "tests_alone")
    assert first.returncode == 1  # there is no ncu
    assert "coldness: done, exit code 1" in first.stdout
    page = page_of(tmp_path)
    assert (
        "`coldness` | bytes read from DRAM after a flush and without one, by `ncu` | done, exit code 1 |"
        in page
    )
    assert "passed, 0 failed" in page
    second = rehearse(tmp_path, "--piece", 5, "--seconds", 23)  # 3 s but for closing
    assert "coldness" not in second.stdout
    assert "kv_heads_energy: no time left; ask again" in second.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--piece", 6], "--piece 6: must be one of 1, 2, 3, 4, 5"),
        (
            ["--piece", 2, "--step", "coldnes"],
            "--step coldnes: must be one of kv_heads_decode, kv_heads_prefill,",
        ),
    ],
)
def test_what_is_not_there_is_a_mistake(
    rehearse: Rehearse, tmp_path: Path, arguments: list[object], complaint: str
) -> None:
    finished = rehearse(tmp_path, *arguments)
    assert finished.returncode == 2
    assert complaint in finished.stderr


def test_without_a_gpu_only_a_rehearsal_is_to_be_had(python: Rehearse, tmp_path: Path) -> None:
    finished = python(OPERATIONS / "gpu_verification.py", "--folder", tmp_path / "gpu")
    assert finished.returncode == 2
    assert finished.stderr.splitlines()[-1].endswith("--rehearse shows the pieces without one")
    assert not (tmp_path / "gpu").exists()
