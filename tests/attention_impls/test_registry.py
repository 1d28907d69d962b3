"""Names resolve to implementations on use; what cannot be resolved says why."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from gqabench import attention_impls
from gqabench.attention_impls import (
    AttentionImpl,
    BrokenImpl,
    TimedCall,
    UnknownImpl,
    get_impl,
    list_impls,
    registry,
)
from gqabench.attention_impls.parts.calls.packages import REQUIREMENTS
from gqabench.attention_impls.plugins import entry_points as plugins
from gqabench.attention_impls.registry import require_known

PROJECT = Path(__file__).resolve().parents[2]

OWN_KERNEL = """
class Own:
    name = "own"
    def unsupported_reasons(self, problem): return []
    def prepare(self, problem, inputs): raise NotImplementedError
class Incomplete:
    name = "incomplete"
class Unconstructible(Own):
    def __init__(self): raise RuntimeError("needs an engine")
"""


@pytest.fixture
def kernel_file(tmp_path):
    path = tmp_path / "kernel.py"
    path.write_text(OWN_KERNEL)
    return path


@pytest.mark.parametrize("name", list(registry.BUILT_IN_IMPLS))
def test_every_built_in_name_is_that_of_its_class(name):
    impl = get_impl(name)
    assert isinstance(impl, AttentionImpl)
    assert impl.name == name
    assert isinstance(impl.timed_call, TimedCall)


def test_the_table_lists_all():
    assert list_impls()[: len(registry.BUILT_IN_IMPLS)] == list(registry.BUILT_IN_IMPLS)


def test_a_class_in_a_file(kernel_file):
    impl = get_impl(f"{kernel_file}:Own")
    assert impl.name == "own"
    assert type(get_impl(f"{kernel_file}:Own")) is type(impl)


@pytest.mark.parametrize("name", ["spda", "", "kernel.py", "reference:Reference"])
def test_an_unknown_name_is_told_the_valid_ones(name):
    with pytest.raises(UnknownImpl) as error:
        get_impl(name)
    assert f"impls={name}: unknown" in str(error.value)
    assert "grouped_matmul" in str(error.value)
    assert "path/to/file.py:ClassName" in str(error.value)


def test_a_missing_file_is_unknown(tmp_path):
    with pytest.raises(UnknownImpl, match="no file"):
        require_known(f"{tmp_path}/absent.py:Own")


def test_requiring_a_name_imports_nothing(tmp_path):
    path = tmp_path / "explosive.py"
    path.write_text("raise SystemError('imported')")
    require_known(f"{path}:Own")
    require_known("flex")
    assert not [name for name in sys.modules if "explosive" in name]


@pytest.mark.parametrize(
    ("class_name", "reason"),
    [
        ("Absent", "AttributeError"),
        ("Unconstructible", "RuntimeError: needs an engine"),
        ("Incomplete", "has no unsupported_reasons, prepare"),
    ],
)
def test_a_class_that_cannot_serve_is_broken(kernel_file, class_name, reason):
    with pytest.raises(BrokenImpl) as error:
        get_impl(f"{kernel_file}:{class_name}")
    assert f"kernel.py:{class_name}: " in str(error.value)
    assert reason in str(error.value)


def test_a_file_that_fails_on_import_is_broken_each_time(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("import a_package_that_nobody_has")
    for _ in range(2):
        with pytest.raises(BrokenImpl, match=r"ModuleNotFoundError.*a_package_that_nobody_has"):
            get_impl(f"{path}:Own")


def test_a_plug_in_is_listed_and_found_but_takes_no_built_in_name(kernel_file, monkeypatch):
    monkeypatch.syspath_prepend(kernel_file.parent)
    points = EntryPoints(
        EntryPoint(name, f"kernel:{class_name}", plugins.ENTRY_POINT_GROUP)
        for name, class_name in (("own", "Own"), ("sdpa", "Own"), ("broken", "Absent"))
    )
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    assert list_impls() == [*registry.BUILT_IN_IMPLS, "broken", "own"]
    assert get_impl("own").name == "own"
    assert type(get_impl("sdpa")).__name__ == "Sdpa"
    with pytest.raises(BrokenImpl, match="impls=broken"):
        get_impl("broken")


def test_the_layer_is_exported():
    assert attention_impls.GroupedQueryAttention.__name__ == "GroupedQueryAttention"
    with pytest.raises(AttributeError, match="Nothing"):
        _ = attention_impls.Nothing


def test_importing_the_package_imports_no_torch():
    code = (
        "import sys, attention_impls, gqabench.attention_impls.cost;"
        "gqabench.attention_impls.list_impls();"
        "from gqabench.attention_impls.registry import require_known; require_known('flex');"
        "heavy = {'torch', 'numpy', 'triton'} & sys.modules.keys();"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_advice_to_install_is_what_the_extras_ask_for():
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, wanted in REQUIREMENTS.items():
        assert wanted.split() == extras[extra]
