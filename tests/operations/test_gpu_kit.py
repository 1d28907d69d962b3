"""The kit for a GPU host without a network: what goes in, how large it may be, and what the host is told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

OPERATIONS = Path(__file__).resolve().parents[2] / "operations"
sys.path.insert(0, str(OPERATIONS))

import gpu_kit  # noqa: E402


def wheels(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / f"{name}-py3-none-any.whl").write_bytes(b"0" * 1024)
    return folder


def test_what_the_host_has_is_left_out(tmp_path: Path) -> None:
    wheelhouse = wheels(
        tmp_path / "wheelhouse", "hydra_core-1.3.8", "omegaconf-2.3.1", "transformers-5.0", "gqabench-0.1.0"
    )
    kit = wheels(tmp_path / "kit")
    gpu_kit.copy_small_wheels(wheelhouse, kit)
    assert {path.name.split("-")[0] for path in kit.iterdir()} == {"hydra_core", "omegaconf"}


def test_a_kit_that_is_too_large_to_carry_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kit = wheels(tmp_path / "kit", "one-1.0", "two-1.0")
    gpu_kit.report_size(kit)
    assert "2 wheels, 0.0 MiB" in capsys.readouterr().out
    monkeypatch.setattr(gpu_kit, "MOST_MIB", 0.001)
    with pytest.raises(SystemExit, match="the largest: one"):
        gpu_kit.report_size(kit)


def test_wheels_that_are_there_are_not_gathered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = wheels(tmp_path / "kit", "xformers-0.0.35")
    gathered: list[str] = []
    monkeypatch.setattr(gpu_kit, "gather", lambda wheel, _: gathered.append(wheel.name))
    gpu_kit.gather_peers(["xformers", "cudnn"], kit)
    assert gathered == ["nvidia-cudnn-frontend"]


def test_the_host_is_told_one_command_that_counts_from_its_beginning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gpu_kit.print_commands(Path("gpu-kit"))
    told = capsys.readouterr().out
    assert "S=$(date +%s); python3 -m pip install" in told
    assert "--piece N --since $S --archive gpu.tar.gz" in told


def test_without_a_compiler_the_host_builds_the_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_kit.shutil, "which", lambda _: None)
    gpu_kit.prebuild_kernels(tmp_path)
    assert "no nvcc here" in capsys.readouterr().out
