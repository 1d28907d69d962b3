"""The import directions of the house, read from the source of every module, and where torch may be loaded.

Names are those below `gqabench`: `results.store.load` is imported as `gqabench.results.store.load`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IMPORT_NAME = "gqabench"

MAY_IMPORT = {
    "conf": set(),
    "attention_impls": set(),
    "results": set(),
    "reports": {"results"},
    "harness": {"conf", "attention_impls", "results"},
}
FRONT_DOOR = "harness.cli"
FRONT_DOOR_MAY_ALSO_IMPORT = {"reports"}

# The process that measures. It alone, with what only it imports, pays for torch at import.
WORKER = "harness.worker"


@dataclass(frozen=True)
class Import:
    """One import in a module. `target` is the longest dotted name that the statement spells out."""

    target: str
    line: int
    runs_on_import: bool  # neither inside a function nor under `if TYPE_CHECKING`


def read_modules(root: Path) -> dict[str, list[Import]]:
    """Dotted name of every module of the house under `root` to its imports; a package is its `__init__`."""
    modules = {}
    for package in MAY_IMPORT:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            enclosing_package = name if is_package else name.rpartition(".")[0]
            tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
            found = _imports(tree, f"{IMPORT_NAME}.{enclosing_package}", runs_on_import=True)
            modules[name] = [replace(one, target=_below_import_name(one.target)) for one in found]
    return modules


def _below_import_name(target: str) -> str:
    """As modules are named here; what is imported by a name of its own, and is ours, stands out by a `!`."""
    if target.partition(".")[0] in MAY_IMPORT:
        return f"!{target}"
    return target.removeprefix(f"{IMPORT_NAME}.")


def _imports(node: ast.AST, package: str, runs_on_import: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        for target in _targets(child, package):
            yield Import(target, child.lineno, runs_on_import)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _imports(ast.Module(child.body, []), package, runs_on_import=False)
            yield from _imports(ast.Module(child.orelse, []), package, runs_on_import)
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, package, runs_on_import and not is_function)


def _targets(node: ast.AST, package: str) -> list[str]:
    """What `node` itself imports: an import statement, or `import_module` of a literal name."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            origin = package.split(".")[: len(package.split(".")) - level + 1] if level else []
            base = ".".join([*origin, *([module] if module else [])])
            return [f"{base}.{alias.name}" for alias in names]
        case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]):
            if ast.unparse(func).rpartition(".")[2] in {"import_module", "__import__"}:
                return [name]
    return []


def wrong_directions(modules: dict[str, list[Import]]) -> list[str]:
    """One line for each import, wherever it stands in its module, that runs against the directions."""
    wrong = []
    for module, imports in modules.items():
        package = module.partition(".")[0]
        allowed = {package} | MAY_IMPORT[package]
        if _is_within(module, FRONT_DOOR):
            allowed |= FRONT_DOOR_MAY_ALSO_IMPORT
        for found in imports:
            imported_package = found.target.partition(".")[0]
            if imported_package.startswith("!") or imported_package in {*MAY_IMPORT, "tests"} - allowed:
                wrong.append(f"{module}:{found.line} imports {found.target}")
    return wrong


def ring_of_rooms(modules: dict[str, list[Import]], package: str) -> list[str]:
    """Rooms of a package that import each other in a ring, wherever the imports stand; empty where none do.

    A room is a folder right below the package, with all that is in it, or a module on top.
    """
    rooms: dict[str, set[str]] = {}
    for name, imports in modules.items():
        if name.startswith(f"{package}."):
            targets = {_room(target) for found in imports if (target := _module(found.target, modules))}
            rooms.setdefault(_room(name), set()).update(
                room for room in targets - {_room(name)} if room.startswith(f"{package}.")
            )
    try:
        TopologicalSorter(rooms).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _room(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _module(target: str, modules: dict[str, list[Import]]) -> str:
    """The module that an import names, or whose name it asks for; empty for one of others."""
    parent = target.rpartition(".")[0]
    return target if target in modules else parent if parent in modules else ""


def cycle(modules: dict[str, list[Import]]) -> list[str]:
    """Modules that import each other when they are imported, in a ring; empty where there is none."""
    try:
        TopologicalSorter({name: _neighbours(name, modules) - {name} for name in modules}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def loads_torch_in_the_parent(modules: dict[str, list[Import]]) -> list[str]:
    """One line for each module that the parent side imports, directly or not, and that imports torch.

    The parent side is the house without the worker and without the implementations, which are loaded by name.
    """
    to_visit = [
        name for name in modules if not _is_within(name, WORKER) and not _is_within(name, "attention_impls")
    ]
    to_visit += [name for name in modules if name == "attention_impls"]
    reached_from = dict.fromkeys(to_visit, "")
    wrong = []
    while to_visit:
        name = to_visit.pop()
        through = f", reached from {reached_from[name]}" if reached_from[name] else ""
        for found in modules[name]:
            if found.runs_on_import and found.target.partition(".")[0] == "torch":
                wrong.append(f"{name}:{found.line} imports torch{through}")
        for neighbour in _with_enclosing_packages(_neighbours(name, modules)) & modules.keys():
            if neighbour not in reached_from:
                reached_from[neighbour] = reached_from[name] or name
                to_visit.append(neighbour)
    return sorted(wrong)


def _neighbours(name: str, modules: dict[str, list[Import]]) -> set[str]:
    """Modules of the house that `name` imports when it is imported."""
    return {
        target
        for found in modules[name]
        if found.runs_on_import
        if (target := _module(found.target, modules))
    }


def _with_enclosing_packages(names: set[str]) -> set[str]:
    parts_of = [name.split(".") for name in names]
    return {".".join(parts[:length]) for parts in parts_of for length in range(1, len(parts) + 1)}


def _is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.fixture(scope="module")
def house() -> dict[str, list[Import]]:
    return read_modules(ROOT)


def test_every_package_is_read(house: dict[str, list[Import]]) -> None:
    assert {name.partition(".")[0] for name in house} == set(MAY_IMPORT)
    assert any(
        found.target == "attention_impls.problem.AttentionProblem" for found in house["attention_impls"]
    )


def test_imports_run_one_way(house: dict[str, list[Import]]) -> None:
    assert wrong_directions(house) == []


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_rooms_import_one_way(house: dict[str, list[Import]], package: str) -> None:
    assert ring_of_rooms(house, package) == []


def test_no_modules_import_each_other(house: dict[str, list[Import]]) -> None:
    assert cycle(house) == []


def test_the_parent_side_imports_no_torch(house: dict[str, list[Import]]) -> None:
    assert loads_torch_in_the_parent(house) == []


def test_the_parent_side_loads_no_torch_through_its_libraries_either(house: dict[str, list[Import]]) -> None:
    parent_side = [
        name
        for name in house
        if not _is_within(name, WORKER)
        and not name.startswith("attention_impls.")
        and not name.endswith("__main__")
    ]
    names = ", ".join(f"{IMPORT_NAME}.{name}" for name in parent_side)
    program = f"import sys, {names}; print('torch' in sys.modules)"
    completed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    assert completed.stdout == "False\n"


# The checks above, on made-up houses: each must be able to fail.


def build(root: Path, files: dict[str, str]) -> dict[str, list[Import]]:
    for package in MAY_IMPORT:
        (root / package).mkdir()
        (root / package / "__init__.py").touch()
    for file, source in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(source)
    return read_modules(root)


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("results/store.py", "import gqabench.harness", "results.store:1 imports harness"),
        (
            "conf/schema.py",
            "from gqabench.attention_impls import x",
            "conf.schema:1 imports attention_impls.x",
        ),
        (
            "attention_impls/sdpa.py",
            "import gqabench.results.record as r",
            "attention_impls.sdpa:1 imports results.record",
        ),
        (
            "reports/page.py",
            "def f():\n    from gqabench.conf import schema",
            "reports.page:2 imports conf.schema",
        ),
        (
            "harness/plan.py",
            "class A:\n    def f(self):\n        import gqabench.reports",
            "harness.plan:3 imports reports",
        ),
        (
            "harness/worker/server.py",
            "from ...reports import page",
            "harness.worker.server:1 imports reports.page",
        ),
        ("results/__init__.py", "from ..conf import schema", "results:1 imports conf.schema"),
        ("harness/client.py", "import gqabench.reports", "harness.client:1 imports reports"),
        ("harness/plan.py", "import tests.tree", "harness.plan:1 imports tests.tree"),
        (
            "conf/schema.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import gqabench.harness",
            "conf.schema:3 imports harness",
        ),
        (
            "results/load.py",
            "import importlib\nm = importlib.import_module('gqabench.reports.page')",
            "results.load:2 imports reports.page",
        ),
    ],
)
def test_an_import_against_the_directions_is_found(
    tmp_path: Path, file: str, source: str, expected: str
) -> None:
    assert wrong_directions(build(tmp_path, {file: source})) == [expected]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "harness/plan.py",
            "import gqabench.conf, gqabench.attention_impls.registry\nfrom gqabench.results import Record",
        ),
        ("harness/cli.py", "import gqabench.reports"),
        ("harness/cli/report.py", "def main():\n    from gqabench.reports import page"),
        ("reports/page.py", "from gqabench.results.load import load\nfrom . import colours"),
        ("conf/schema.py", "import configparser, resultsdb"),
    ],
)
def test_an_import_along_the_directions_is_accepted(tmp_path: Path, file: str, source: str) -> None:
    assert wrong_directions(build(tmp_path, {file: source})) == []


def test_a_ring_of_imports_is_found(tmp_path: Path) -> None:
    modules = build(
        tmp_path,
        {
            "results/a.py": "from gqabench.results.b import x",
            "results/b.py": "from . import c",
            "results/c.py": "import gqabench.results.a",
        },
    )
    assert set(cycle(modules)) == {"results.a", "results.b", "results.c"}


def test_a_package_that_imports_a_module_which_asks_it_for_a_name_is_a_ring(tmp_path: Path) -> None:
    modules = build(
        tmp_path,
        {
            "results/__init__.py": "from gqabench.results.load import load",
            "results/load.py": "from gqabench.results import Record",
        },
    )
    assert set(cycle(modules)) == {"results", "results.load"}


def test_an_import_by_a_name_of_its_own_is_found(tmp_path: Path) -> None:
    modules = build(tmp_path, {"results/store.py": "from results import Record"})
    assert wrong_directions(modules) == ["results.store:1 imports !results.Record"]


def test_rooms_that_import_each_other_are_found(tmp_path: Path) -> None:
    files = {
        "results/store/load.py": "def f():\n    import gqabench.results.statistics.samples",
        "results/statistics/samples.py": "from gqabench.results.record import Record",
        "results/statistics/ranks.py": "from gqabench.results.store.load import f",
        "results/record.py": "",
    }
    modules = build(tmp_path, files)
    assert cycle(modules) == []
    assert set(ring_of_rooms(modules, "results")) == {"results.store", "results.statistics"}
    assert ring_of_rooms(modules, "reports") == []


def test_a_ring_that_only_a_type_checker_or_a_call_walks_is_none(tmp_path: Path) -> None:
    modules = build(
        tmp_path,
        {
            "results/a.py": "from gqabench.results.b import x\nfrom gqabench.results.c import y",
            "results/b.py": "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    import gqabench.results.a",
            "results/c.py": "def f():\n    import gqabench.results.a",
        },
    )
    assert cycle(modules) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"results/a.py": "import torch"}, ["results.a:1 imports torch"]),
        ({"harness/clock.py": "from torch.cuda import Event"}, ["harness.clock:1 imports torch"]),
        ({"harness/a.py": "if True:\n    import torch.nn"}, ["harness.a:2 imports torch"]),
        (
            {"harness/a.py": "import gqabench.attention_impls.b", "attention_impls/b.py": "import torch"},
            ["attention_impls.b:1 imports torch, reached from harness.a"],
        ),
        (
            {
                "harness/a.py": "import gqabench.harness.worker.names",
                "harness/worker/__init__.py": "import torch",
            }
            | {"harness/worker/names.py": ""},
            ["harness.worker:1 imports torch, reached from harness.a"],
        ),
        (
            {
                "attention_impls/__init__.py": "from gqabench.attention_impls import b",
                "attention_impls/b.py": "import torch",
            },
            ["attention_impls.b:1 imports torch, reached from attention_impls"],
        ),
        ({"harness/worker/clock.py": "import torch", "attention_impls/sdpa.py": "import torch"}, []),
        ({"harness/doctor.py": "def roof():\n    import torch"}, []),
        ({"results/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"}, []),
    ],
)
def test_torch_in_the_parent_is_found(tmp_path: Path, files: dict[str, str], expected: list[str]) -> None:
    assert loads_torch_in_the_parent(build(tmp_path, files)) == expected
