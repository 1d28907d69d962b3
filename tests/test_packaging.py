"""What is installed: the wheel's content, its use from any folder, and the lock."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FOLDERS = ["attention_impls", "conf", "harness", "reports", "results"]

# Planted beside the sources before the wheel is built: none of it belongs in there.
STRAYS = [
    "results/runs/2026-01-01/records.jsonl",
    "results/runs/2026-01-01/.hydra/config.yaml",
    "results/baselines/cpu/records.jsonl",
    "results/baselines/cpu/load.py",
    "conf/study/notes.txt",
    "reports/template.html",
    "tests/test_stray.py",
    "tests/results/test_stray.py",
    "multirun/a/multirun.yaml",
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, with strays among them."""
    source = tmp_path_factory.mktemp("source")
    for file in (*package_files(), "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, source / file)
    for stray in STRAYS:
        (source / stray).parent.mkdir(parents=True, exist_ok=True)
        (source / stray).touch()
    return source


@pytest.fixture(scope="module")
def unpacked(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content. It is built without a network."""
    wheels, unpacked = (tmp_path_factory.mktemp(name) for name in ("wheels", "unpacked"))
    program = f"from setuptools.build_meta import build_wheel; build_wheel({str(wheels)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=source, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    return unpacked


def package_files() -> list[str]:
    """What stands in the package and its five folders, but for runs, caches, hidden files and prose."""
    folders = ["gqabench", *FOLDERS]
    files = [
        path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()
    ]
    return [
        file.as_posix()
        for file in files
        if file.parts[:2] not in {("results", "runs"), ("results", "baselines")}
        and not any(part.startswith(".") or part == "__pycache__" for part in file.parts)
        and file.suffix != ".md"
    ]


def dist_info(unpacked: Path) -> Path:
    (folder,) = unpacked.glob("gqabench-*.dist-info")
    return folder


def run_from(folder: Path, unpacked: Path, program: str) -> str:
    """What `program` prints in an isolated interpreter that finds the wheel's content first."""
    program = f"import sys; sys.path.insert(0, {str(unpacked)!r}); {program}"
    command = [sys.executable, "-I", "-c", program]
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout


def test_the_wheel_holds_the_files_of_the_package_and_nothing_else(unpacked: Path) -> None:
    files = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    below = {file if file.startswith("gqabench/") else f"gqabench/{file}" for file in package_files()}
    assert {file for file in files if ".dist-info/" not in file} == below
    assert {f"gqabench/{folder}/__init__.py" for folder in FOLDERS} | {"gqabench/conf/sweep.yaml"} <= files


def test_the_source_distribution_holds_what_a_wheel_is_built_from(source: Path, tmp_path: Path) -> None:
    program = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=source, check=True, stdout=subprocess.DEVNULL)
    (archive,) = tmp_path.glob("gqabench-*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"setup.py", "pyproject.toml", *package_files()} <= names
    assert not names & set(STRAYS) - {"tests/test_stray.py"}  # setuptools takes tests/test*.py along


@pytest.mark.parametrize("has_links", [True, False])
def test_an_editable_install_offers_gqabench_and_nothing_beside_it(
    source: Path, tmp_path: Path, has_links: bool
) -> None:
    checkout, wheels, installed = (tmp_path / name for name in ("checkout", "wheels", "installed"))
    shutil.copytree(source, checkout)
    if has_links:  # a copy of a checkout may lack them
        shutil.copytree(ROOT / ".types", checkout / ".types", symlinks=True)
    wheels.mkdir()
    program = f"from setuptools.build_meta import build_editable; build_editable({str(wheels)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=checkout, check=True, stdout=subprocess.DEVNULL)
    with zipfile.ZipFile(next(wheels.glob("gqabench-*.whl"))) as archive:
        archive.extractall(installed)
    found = (
        "import importlib.util, os, site;"
        "sys.path[:] = [entry for entry in sys.path if not os.path.isdir(os.path.join(entry, 'gqabench'))];"
        f"site.addsitedir({str(installed)!r}); import gqabench.results;"
        "print(os.path.realpath(gqabench.results.__file__));"
        f"print([name for name in {FOLDERS} if importlib.util.find_spec(name)])"
    )
    assert run_from(tmp_path, installed, found).splitlines() == [
        str(checkout / "results" / "__init__.py"),
        "[]",
    ]


def test_the_wheel_names_the_project_its_command_and_its_licence(unpacked: Path) -> None:
    metadata = Parser().parsestr((dist_info(unpacked) / "METADATA").read_text())
    assert (metadata["Name"], metadata["License-Expression"]) == ("gqabench", "Apache-2.0")
    entry_points = (dist_info(unpacked) / "entry_points.txt").read_text()
    console, plugin = entry_points.split("\n\n")[:2]
    assert console.split() == ["[console_scripts]", "gqabench", "=", "gqabench.harness.cli:main"]
    assert plugin.split() == ["[pytest11]", "gqabench", "=", "gqabench.harness.pytest_plugin"]
    assert (dist_info(unpacked) / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_wheel_works_from_any_folder(unpacked: Path, tmp_path: Path) -> None:
    names = [f"gqabench.{folder}" for folder in FOLDERS]
    files = run_from(
        tmp_path,
        unpacked,
        f"import {', '.join(names)}; [print(sys.modules[name].__file__) for name in {names}]",
    )
    assert files.split("\n")[:-1] == [str(unpacked / "gqabench" / name / "__init__.py") for name in FOLDERS]

    studies = run_from(
        tmp_path,
        unpacked,
        "sys.argv = ['gqabench', 'list', 'studies']; from gqabench.harness.cli import main; sys.exit(main())",
    )
    assert "default" in studies
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_measures_in_a_folder_with_such_names_of_its_own(unpacked: Path, tmp_path: Path) -> None:
    for folder in FOLDERS:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text(f"raise ImportError('the {folder} of somebody else')")
    arguments = ["gqabench", "sweep", "measure=smoke", "model=mha_8", "kv_len=8", "impls=[sdpa]"]
    arguments += ["measure.caches=[warm]"]  # flushing caches takes longest, and times are not the point
    program = f"sys.argv = {arguments}; from gqabench.harness.cli import main; sys.exit(main())"
    assert "1 records: 1 ok" in run_from(tmp_path, unpacked, f"sys.path.insert(0, ''); {program}")


OWN_TESTS = """
import json
import sys
from pathlib import Path

import conf
import results


def test_own_packages(benchmark):
    benchmark(lambda: None)
    assert (conf.owner, results.owner) == ("the project", "the project")
    assert not [name for name in sys.modules if name.startswith("gqabench.results")]


def test_a_cell(gqa_benchmark):
    record = gqa_benchmark("sdpa", rounds=3, model="mha_8", kv_len=8)
    assert record.outcome == "ok"
"""


def test_a_project_with_such_names_of_its_own_benchmarks_beside_it(unpacked: Path, tmp_path: Path) -> None:
    for folder in FOLDERS:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("owner = 'the project'")
    (tmp_path / "test_own.py").write_text(OWN_TESTS)
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    outer = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    for chosen, has_header in (("test_own_packages", False), ("test_own_packages or test_a_cell", True)):
        file = tmp_path / "file.json"
        finished = subprocess.run(
            [*pytest_command, "-k", chosen, f"--benchmark-json={file}"],
            cwd=tmp_path,
            env=outer | {"PYTHONPATH": str(unpacked), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert ("gqabench_run" in json.loads(file.read_text())) == has_header


def lock_lines() -> list[str]:
    return [
        line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")
    ]


def locked_versions() -> dict[str, str]:
    pins = [line.split()[0].rstrip(";").partition("==") for line in lock_lines()]
    return {name: version for name, _, version in pins}


def test_the_lock_pins_exact_public_versions_only() -> None:
    assert [
        line
        for line in lock_lines()
        if not re.fullmatch(
            r"[a-z0-9-]+==[0-9][0-9.a-z]*(; platform_system == \"Linux\")?  # [a-z0-9, -]+", line
        )
    ] == []
    assert len(locked_versions()) == len(lock_lines())


def extra_requirements(project: dict[str, Any], extra: str) -> list[Requirement]:
    """What an extra asks for, those of our own that it names included. The peers' are not locked."""
    requirements = [Requirement(line) for line in project["optional-dependencies"][extra]]
    named = [
        name for requirement in requirements if requirement.name == "gqabench" for name in requirement.extras
    ]
    return requirements + [item for name in sorted(named) for item in extra_requirements(project, name)]


def test_the_lock_meets_every_requirement_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*map(Requirement, project["dependencies"]), *extra_requirements(project, "dev")]
    versions = locked_versions() | {"gqabench": project["version"]}  # an extra may name another
    assert {canonicalize_name(requirement.name) for requirement in requirements} <= versions.keys()
    assert [
        str(requirement)
        for requirement in requirements
        if versions[canonicalize_name(requirement.name)] not in requirement.specifier
    ] == []


def test_the_lock_leaves_the_cuda_libraries_to_torch() -> None:
    cuda_libraries = [name for name in locked_versions() if re.match("cuda|nvidia", name)]
    assert cuda_libraries == ["nvidia-ml-py"]


def test_the_locked_triton_is_the_one_that_cuda_builds_of_the_locked_torch_name() -> None:
    """torch 2.13.0 on PyPI: `Requires-Dist: triton==3.7.1`. It cannot be installed beside another."""
    assert (locked_versions()["torch"], locked_versions()["triton"]) == ("2.13.0", "3.7.1")
