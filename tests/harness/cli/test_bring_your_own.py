"""docs/add-an-implementation.md does what it says: its code is run as a user would copy it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gqabench import results

PROJECT = Path(__file__).resolve().parents[3]
PAGE = (PROJECT / "docs" / "add-an-implementation.md").read_text(encoding="utf-8")
SMALL = ("measure=smoke", "model=gqa_8_2", "kv_len=96")


def code_block(language: str, containing: str) -> str:
    """The one block of the page in a language that contains some text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if containing in block]
    return str(block)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a user has copied the page's example to."""
    folder = tmp_path_factory.mktemp("copied")
    (folder / "my_decode.py").write_text(code_block("python", "class MyDecode"), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip leaves of the page's pyproject.toml in the search path: the module, and metadata beside it."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "my_decode.py").write_text(code_block("python", "class MyDecode"), encoding="utf-8")
    project = tomllib.loads(code_block("toml", "[project]"))
    assert project["tool"]["setuptools"]["py-modules"] == ["my_decode"]
    install(folder, project["project"])
    return folder


def install(folder: Path, project: dict[str, Any]) -> None:
    """What an installer writes into a folder of the search path for a project without files."""
    name, version = project["name"], project["version"]
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = [
        "\n".join([f"[{group}]", *(f"{point} = {target}" for point, target in points.items())])
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups) + "\n")


def test_the_example_is_measured_from_its_file_and_by_its_installed_name(
    gqabench_in: Callable[..., Any], copied: Path, installed: Path
) -> None:
    path = os.pathsep.join([str(PROJECT), str(installed)])
    impls = ["my_decode.py:MyDecode", "my_decode", "sdpa"]
    finished = gqabench_in(copied, "sweep", *SMALL, f"impls=[{','.join(impls)}]", PYTHONPATH=path)
    assert finished.returncode == 0, finished.stderr
    run = copied / "results" / "runs" / "latest"
    rows = results.load(run).set_index("impl")
    assert rows["outcome"].to_dict() == dict.fromkeys(impls, "ok"), rows["reason"]
    assert (rows["kv_cache_bytes"] == rows["kv_cache_bytes_model"]).all()
    machine = json.loads((run / "run.json").read_text())["machine"]
    assert machine["plugins"] == {"my_decode": "my-kernels 0.1"}


def test_the_examples_test_passes(copied: Path) -> None:
    test = copied / "test_my_decode.py"
    test.write_text(code_block("python", "def test_it_agrees_with_float64"), encoding="utf-8")
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test.name],
        cwd=copied,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    assert "9 passed" in finished.stdout


def test_the_list_says_what_no_plug_in_can_run_and_why(
    gqabench_in: Callable[..., Any], installed: Path, tmp_path: Path
) -> None:
    """One plug-in works, one hangs, one exits when imported, two have one name, one has a built-in name."""
    for name, source in {
        "hangs": "import time; time.sleep(1000)",
        "exits": "raise SystemExit('no GPU')",
    }.items():
        (tmp_path / f"{name}.py").write_text(source)
    points = {"exits": "exits:Impl", "hangs": "hangs:Impl", "sdpa": "my_decode:MyDecode", "twice": "a:B"}
    group = "gqabench.attention_impls"
    install(tmp_path, {"name": "one", "version": "1", "entry-points": {group: points}})
    install(
        tmp_path, {"name": "other", "version": "2", "entry-points": {group: {"twice": "my_decode:MyDecode"}}}
    )
    path = os.pathsep.join([str(PROJECT), str(installed), str(tmp_path)])
    finished = gqabench_in(tmp_path, "list", "impls", "--timeout", "6", PYTHONPATH=path)
    assert finished.returncode == 0, finished.stderr
    table, _, plugins = finished.stdout.partition("\n\nplug-ins:\n")
    rows = {line.split()[0]: line for line in table.splitlines()}
    assert rows["my_decode"].split()[1:4] == ["yes", "no", "no"]
    assert rows["my_decode"].endswith("q_len=1024: this kernel decodes one token of each sequence")
    assert rows["hangs"].endswith("no answer within 6 s")
    assert rows["exits"].endswith("SystemExit: no GPU")
    assert rows["twice"].endswith("AmbiguousPlugin: offered by one 1 and by other 2; uninstall all but one")
    assert rows["sdpa"].split()[1:4] == ["yes"] * 3
    packages = {line.split()[0]: line.split(maxsplit=1)[1] for line in plugins.splitlines()}
    assert packages["my_decode"] == "my-kernels 0.1"
    assert packages["twice"] == "one 1 and other 2"
    assert packages["sdpa"] == "one 1 (unreachable: a built-in implementation has this name)"
