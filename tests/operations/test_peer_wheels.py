"""Wheels for a host without a network: pip takes them packed anew, and without what was left out of them."""

import csv
import subprocess
import sys
import types
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

from operations import gather_peers, prebuild_flashinfer

FILES = {
    "peer/__init__.py": "from peer.kernels import answer\n",
    "peer/kernels.py": "answer = 42\n",
    "peer/samples/long.py": "0\n" * 1000,
    "peer-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: peer\nVersion: 1.0\n",
    "peer-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}

HAS_PIP = any(True for _ in distributions(name="pip"))
"""Looking pip up as a module would not do: setuptools then gives up its `distutils` in this process, and
PyTorch's compiler fails without it."""


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "original" / "peer-1.0-py3-none-any.whl"
    path.parent.mkdir()
    record = "".join(f"{name},,\n" for name in [*FILES, "peer-1.0.dist-info/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in FILES.items():
            archive.writestr(name, text)
        archive.writestr("peer-1.0.dist-info/RECORD", record)
    return path


def installed(wheel, folder):
    """Install as on the host: no index, no dependencies."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--disable-pip-version-check", "--target", str(folder), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.skipif(not HAS_PIP, reason="this environment has no pip")
def test_a_packed_wheel_installs_without_what_was_left_out(wheel, tmp_path):
    packed = tmp_path / wheel.name
    assert gather_peers.pack(wheel, packed, ("peer/samples/*",)) == 1
    with zipfile.ZipFile(packed) as archive:
        kinds = {
            entry.compress_type for entry in archive.infolist() if not entry.filename.endswith("LEFT_OUT")
        }
        record = archive.read("peer-1.0.dist-info/RECORD").decode().splitlines()
        assert archive.testzip() is None
    assert kinds == {zipfile.ZIP_LZMA}
    assert [row[0] for row in csv.reader(record)] == [
        "peer/__init__.py", "peer/kernels.py", "peer-1.0.dist-info/METADATA", "peer-1.0.dist-info/WHEEL",
        "peer-1.0.dist-info/RECORD", "peer-1.0.dist-info/LEFT_OUT",
    ]  # fmt: skip
    site = installed(packed, tmp_path / "site")
    assert not (site / "peer" / "samples").exists()
    assert (site / "peer-1.0.dist-info" / "LEFT_OUT").read_text() == "peer/samples/long.py\n"
    code = f"import sys; sys.path.insert(0, {str(site)!r}); import peer; print(peer.answer)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).stdout == b"42\n"


def test_a_wheel_of_which_nothing_is_left_out_says_nothing(wheel, tmp_path):
    packed = tmp_path / wheel.name
    assert gather_peers.pack(wheel, packed) == 0
    with zipfile.ZipFile(packed) as new, zipfile.ZipFile(wheel) as old:
        assert {name: new.read(name) for name in new.namelist()} == {n: old.read(n) for n in old.namelist()}


def test_every_peer_is_pinned_with_a_reason():
    for wheels in gather_peers.PEERS.values():
        assert all(wheel.version and wheel.reason for wheel in wheels)


def test_prebuilt_kernels_are_where_flashinfer_looks(tmp_path, monkeypatch):
    version = types.ModuleType("flashinfer.version")
    version.__version__ = "0.6.15"
    monkeypatch.setitem(sys.modules, "flashinfer", types.ModuleType("flashinfer"))
    monkeypatch.setitem(sys.modules, "flashinfer.version", version)
    library = tmp_path / "kernel_of_128" / "kernel_of_128.so"
    library.parent.mkdir()
    library.write_bytes(b"code")
    made = prebuild_flashinfer.write_wheel([library], tmp_path / "wheels")
    site = tmp_path / "site"
    with zipfile.ZipFile(made) as archive:
        archive.extractall(site)
    monkeypatch.syspath_prepend(site)
    cache = __import__("flashinfer_jit_cache")
    assert cache.__version__.startswith("0.6.15")
    assert (Path(cache.get_jit_cache_dir()) / "kernel_of_128" / "kernel_of_128.so").read_bytes() == b"code"
