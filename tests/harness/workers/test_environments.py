"""Environments of arms: what they may be, what their workers need, and arms of two in one table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gqabench import results
from gqabench.harness.cases.arms import read_arms
from gqabench.harness.errors import UsageError
from gqabench.harness.workers.environments import read_environments

PROJECT = Path(__file__).resolve().parents[3]
Gqabench = Callable[..., subprocess.CompletedProcess[str]]

NOT_OF_A_WORKER = ("psutil", "pandas", "hydra", "omegaconf", "yaml", "pyarrow", "scipy", "matplotlib", "rich")

IMPL = """
    import transformers
    from gqabench.attention_impls import PreparedAttention, get_impl
    from beside import EXTRA

    class Mine:
        name = "mine"
        def unsupported_reasons(self, problem):
            return []
        def prepare(self, problem, inputs):
            inner = get_impl("grouped_matmul").prepare(problem, inputs)
            held = inner.kv_cache_bytes + int(transformers.__version__.split(".")[0]) + EXTRA
            return PreparedAttention(inner.run, held)
"""


def make_environment(folder: Path, transformers: str) -> Path:
    """A virtual environment with this one's torch, and a `transformers` of its own; its interpreter."""
    venv.create(folder, with_pip=False)
    site = next(folder.glob("lib/python*/site-packages"))
    lent = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    (site / "torch_of_the_tests.pth").write_text("\n".join(lent))
    (site / "transformers.py").write_text(f"__version__ = {transformers!r}\n")
    info = site / f"transformers-{transformers}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: transformers\nVersion: {transformers}\n")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def run(gqabench_in: Gqabench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over arms of two virtual environments, of this one, and of one that dies at its start."""
    folder = tmp_path_factory.mktemp("environments")
    (folder / "impl.py").write_text(textwrap.dedent(IMPL))
    (folder / "beside.py").write_text("EXTRA = 1000\n")
    old, new = (
        make_environment(folder / name, version) for name, version in (("old", "3.0.0"), ("new", "5.1.0"))
    )
    finished = gqabench_in(
        folder, "sweep", "measure=smoke", "measure.caches=[warm]", "model=gqa_8_2", "kv_len=32",
        f"environments.old.python={old}", "environments.new.python=new/bin/python",
        "environments.dead.python=/bin/false",
        "impls=[sdpa,old:sdpa,new:sdpa,dead:sdpa,old:impl.py:Mine,new:impl.py:Mine]",
    )  # fmt: skip
    assert new.is_file()
    assert finished.returncode == 0, finished.stderr
    return folder / "results" / "runs" / "latest"


@pytest.fixture(scope="module")
def rows(run: Path) -> pd.DataFrame:
    return results.load(run).set_index(["environment", "impl"])


def test_arms_of_several_environments_stand_in_one_table(rows: pd.DataFrame) -> None:
    ok = rows[rows["outcome"] == "ok"]
    assert sorted(ok.index) == [
        ("current", "sdpa"), ("new", "impl.py:Mine"), ("new", "sdpa"), ("old", "impl.py:Mine"),
        ("old", "sdpa"),
    ]  # fmt: skip
    assert ok["cell_id"].is_unique
    assert ok["case_id"].nunique() == 1


def test_each_arm_ran_with_the_packages_of_its_environment(rows: pd.DataFrame, run: Path) -> None:
    cache = 2 * 2 * 32 * 64 * 4
    assert rows.loc[("old", "impl.py:Mine"), "kv_cache_bytes"] == cache + 1003
    assert rows.loc[("new", "impl.py:Mine"), "kv_cache_bytes"] == cache + 1005
    described = json.loads((run / "run.json").read_text())["machine"]["environments"]
    assert described["old"]["libraries"]["transformers"] == "3.0.0"
    assert described["new"]["libraries"]["transformers"] == "5.1.0"


def test_an_environment_that_dies_at_its_start_fails_its_own_arms_alone(rows: pd.DataFrame) -> None:
    row = rows.loc[("dead", "sdpa")]
    assert row["outcome"] == "crash"
    assert row["reason"] == "starting environment dead: the worker exited with code 1"


def test_the_report_tells_the_environments_apart(run: Path) -> None:
    page = (run / "report.md").read_text()
    assert all(f"sdpa @ {name}" in page for name in ("current", "old", "new"))


def test_a_worker_needs_its_environments_torch_numpy_and_this_source_alone(tmp_path: Path) -> None:
    """What else the parent has cannot be imported, and a torch beside this source is none."""
    source, blocker = tmp_path / "source", tmp_path / "sitecustomize.py"
    source.mkdir()
    for package in ("attention_impls", "harness"):
        (source / package).symlink_to(PROJECT / package)
    (source / "torch.py").write_text("raise ImportError('not this one')")
    blocker.write_text(f"import sys\nsys.modules.update(dict.fromkeys({NOT_OF_A_WORKER!r}))\n")
    finished = subprocess.run(
        [sys.executable, PROJECT / "harness/worker/bootstrap.py", str(os.getpid()), source],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        input='{"op": "describe_host"}\n',
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    host: dict[str, Any] = json.loads(finished.stdout)
    assert host["ok"] is True


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"a": {"python": "/nope"}}, "environments.a.python=/nope: no such file"),
        ({"a": {"python": "/tmp"}}, "is a folder; name its interpreter, such as /tmp/bin/python"),
        ({"a": {"python": "/etc/passwd"}}, "cannot be executed"),
        ({"a": {"python": "no_such_command"}}, "no such command"),
        ({"a": {"source": "/tmp"}}, "is not a checkout of gqabench"),
        ({"a": {"pyton": "/x"}}, "valid: environments.a.python=PATH"),
        ({"a": {}}, "needs environments.a.python=PATH"),
        ({"a.b": {"python": "/x"}}, "a name has letters"),
        ({"current": {"python": "/x"}}, "choose another name"),
        (3, "environments=3: valid: "),
    ],
)
def test_what_is_no_environment(values: Any, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        read_environments(values, Path("/"))


def test_an_interpreter_without_torch_is_told_what_it_lacks(gqabench: Gqabench, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    finished = gqabench(
        "sweep", "environments.bare.python=bare/bin/python", "impls=[bare:sdpa]", "measure=smoke"
    )
    assert finished.returncode == 2
    assert finished.stderr.rstrip().endswith("bare/bin/python: it has no torch and no numpy")


def test_names_of_arms(tmp_path: Path) -> None:
    (tmp_path / "k.py").touch()
    arms = read_arms(["sdpa", "a:sdpa", "k.py:K", "a:k.py:K"], ["current", "a"], tmp_path)
    assert [(arm.environment, arm.impl, arm.label) for arm in arms] == [
        ("current", "sdpa", "sdpa"), ("a", "sdpa", "a:sdpa"), ("current", "k.py:K", "k.py:K"),
        ("a", "k.py:K", "a:k.py:K"),
    ]  # fmt: skip
    assert arms[3].target == f"{tmp_path}/k.py:K"
    (tmp_path / "a+b").mkdir()
    (tmp_path / "a+b" / "k.py").touch()
    pairs = read_arms(
        ["sdpa+k.py:K", "k.py:K+sdpa", "a+b/k.py:K", "a:sdpa+a+b/k.py:K"],
        ["current", "a"],
        tmp_path,
    )
    assert [(arm.environment, arm.target) for arm in pairs] == [
        ("current", f"sdpa+{tmp_path}/k.py:K"), ("current", f"{tmp_path}/k.py:K+sdpa"),
        ("current", f"{tmp_path}/a+b/k.py:K"), ("a", f"sdpa+{tmp_path}/a+b/k.py:K"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"impls=sdpa\+none.py:K: no file .*/none.py"):
        read_arms(["sdpa+none.py:K"], ["current"], tmp_path)
    with pytest.raises(UsageError, match=r"impls=b:sdpa: unknown environment b; valid: current, a"):
        read_arms(["b:sdpa"], ["current", "a"], tmp_path)
