"""Implementations from outside that import this project by the names before `gqabench`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gqabench import results

PROJECT = Path(__file__).resolve().parents[3]

OLD_IMPL = """
from attention_impls import AttentionProblem
from attention_impls.caches.contiguous import ContiguousCache
from attention_impls.contract import AttentionImpl, PreparedAttention
from attention_impls.repeat_kv import RepeatKv

import gqabench.attention_impls.contract

assert AttentionImpl is gqabench.attention_impls.contract.AttentionImpl


class Old(RepeatKv):
    name = "old"
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = f"import sys; sys.path[:0] = [{str(PROJECT)!r}, {str(folder)!r}]\n{program}"
    return subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )


def test_an_implementation_of_the_old_names_is_measured_with_one_warning(
    gqabench_in: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "old.py").write_text(OLD_IMPL)
    finished = gqabench_in(
        tmp_path, "sweep", "measure=smoke", "measure.caches=[warm]", "model=mha_8", "kv_len=8",
        "impls=[old.py:Old,sdpa]",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    frame = results.load(tmp_path / "results" / "runs" / "latest")
    assert list(frame["outcome"]) == ["ok", "ok"], list(frame["reason"])
    assert finished.stderr.count("the import name attention_impls is now gqabench.attention_impls") == 1


@pytest.mark.parametrize("name", ["results", "harness", "attention_impls"])
def test_a_project_with_a_package_of_such_a_name_keeps_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("owner = 'somebody else'")
    (tmp_path / name / "store.py").write_text("owner = 'somebody else'")
    program = (
        f"sys.path.remove({str(PROJECT)!r}); sys.path.append({str(PROJECT)!r})\n"
        "from gqabench.attention_impls.plugins.old_names import accept_old_names; accept_old_names()\n"
        f"import {name}.store; print({name}.owner, {name}.store.owner)"
    )
    finished = run(program, tmp_path)
    assert (finished.stdout, finished.stderr) == ("somebody else somebody else\n", "")


def test_an_old_name_is_the_module_of_today_and_stays_whole(tmp_path: Path) -> None:
    program = """
from gqabench.attention_impls.plugins.old_names import accept_old_names
accept_old_names()
accept_old_names()
import attention_impls.truth.error_budget, results, importlib
import gqabench.attention_impls.correctness.error_budget as today
assert attention_impls.truth.error_budget is today
assert today.__spec__.name == today.__name__ == "gqabench.attention_impls.correctness.error_budget"
assert results.load is importlib.import_module("gqabench").load
try:
    import attention_impls.never_was
except ModuleNotFoundError as error:
    print(error)
"""
    finished = run(program, tmp_path)
    assert finished.stdout == "No module named 'gqabench.attention_impls.never_was'\n", finished.stderr
    assert finished.stderr.count("FutureWarning") == 2  # of attention_impls, and of results
