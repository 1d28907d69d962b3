"""The compiled kernel: built by this machine's C++ compiler on first use, and kept.

It includes no PyTorch header, and links none of PyTorch's libraries except the OpenMP runtime that PyTorch
has loaded: with a second runtime, two pools of threads would wait for work on the same cores. So a build
takes seconds, needs no Python headers, and outlives PyTorch versions.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch  # noqa: F401  loads the OpenMP runtime

from gqabench.attention_impls.cache_folder import CACHE_VARIABLE, user_cache_folder

FLAGS = ("-std=c++17", "-O3", "-mavx2", "-mfma", "-mf16c", "-fopenmp", "-fPIC", "-shared")
"""The instruction sets are named, not `native`: a build also runs on another machine that has them."""

_NEEDED_CPU_FLAGS = ("avx2", "fma", "f16c")
_SOURCES = tuple(Path(__file__).parent / name for name in ("kernel.cpp", "tile.h", "vectors.h"))
_OPENMP_RUNTIME = re.compile(r"/lib(gomp|iomp5|omp)\b[^/]*$")
_TIMEOUT_S = 300


class CannotBuild(Exception):
    """The kernel cannot be built or loaded here. The message says why, in one line."""


@dataclass
class Kernel:
    """A loaded kernel."""

    library: ctypes.CDLL
    address: int
    """Of `attend` in kernel.cpp"""
    compile_ms: float | None
    """None where the build was found in the cache"""

    def take_compile_ms(self) -> float | None:
        """Return the build time for the first problem that is prepared with it; None for all others."""
        compile_ms, self.compile_ms = self.compile_ms, None
        return compile_ms


@cache
def load_kernel(io: str, cache_type: str) -> Kernel:
    """Return the kernel for queries of one type and a cache of another, built if needed.

    `io` and `cache_type` are names of vectors.h. Raises `CannotBuild`.
    """
    require_cpu(Path("/proc/cpuinfo"))
    runtime = openmp_runtime(Path("/proc/self/maps"))
    defines = (f"-DIO={io}", f"-DCACHE={cache_type}")
    key = hashlib.sha256(repr((FLAGS, defines, runtime, os.environ.get("CXX"))).encode())
    for source in _SOURCES:
        key.update(source.read_bytes())
    folder = user_cache_folder()
    library = folder / f"cpu_decode-{io}-{cache_type}-{key.hexdigest()[:20]}.so"
    compile_ms = None
    if not _is_whole(library):
        started = time.perf_counter()
        if _build(library, [*defines, str(_SOURCES[0])], runtime):
            compile_ms = (time.perf_counter() - started) * 1e3
    try:
        loaded = ctypes.CDLL(str(library))
        address = ctypes.cast(loaded.attend, ctypes.c_void_p).value
    except (OSError, AttributeError) as error:
        library.unlink(missing_ok=True)  # so that another compiler may build it
        raise CannotBuild(f"{library.name} cannot be loaded: {error}") from error
    assert address is not None
    return Kernel(loaded, address, compile_ms)


def _is_whole(library: Path) -> bool:
    """Return whether a build is complete: its digest matches.

    Loading a library that a full disk or a crash cut short would crash this process.
    """
    try:
        return _digest_file(library).read_text() == hashlib.sha256(library.read_bytes()).hexdigest()
    except OSError:
        return False


def _digest_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


def require_cpu(cpuinfo: Path) -> None:
    """Raise `CannotBuild` unless this CPU has the instruction sets that the kernel uses."""
    try:
        found = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError as error:
        raise CannotBuild(
            f"{cpuinfo} cannot be read, so the instruction sets of this CPU are unknown"
        ) from error
    missing = sorted(set(_NEEDED_CPU_FLAGS) - set(found[1].split() if found else ()))
    if missing:
        raise CannotBuild(f"the kernel is written for x86-64 with AVX2; this CPU lacks {', '.join(missing)}")


def openmp_runtime(maps: Path) -> str:
    """Return the path of the OpenMP runtime that PyTorch has loaded here. Raises `CannotBuild`."""
    paths = (line.split(maxsplit=5)[-1].strip() for line in maps.read_text().splitlines())
    if not (found := sorted({path for path in paths if _OPENMP_RUNTIME.search(path)}, key=_of_torch)):
        raise CannotBuild("PyTorch has loaded no OpenMP runtime here, and the kernel shares its threads")
    return found[0]


def _of_torch(path: str) -> bool:
    """Sort PyTorch's own runtime before others that the process may have loaded."""
    return "/torch/" not in path


def _build(library: Path, arguments: list[str], runtime: str) -> bool:
    """Compile beside the library, then move it into place. Return False if another process just did."""
    try:
        compiler = shlex.split(os.environ.get("CXX", "g++"))
    except ValueError as error:
        raise CannotBuild(f"CXX={os.environ['CXX']}: {error}") from error
    if not compiler or shutil.which(compiler[0]) is None:
        raise CannotBuild(
            f"the kernel is compiled on first use: no C++ compiler {' '.join(compiler)} on PATH (set CXX)"
        )
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix="build-", dir=library.parent)
    except OSError as error:
        raise CannotBuild(
            f"{library.parent}: {error.strerror}, so the kernel cannot be built there"
            f" (set {CACHE_VARIABLE} to another folder)"
        ) from error
    with folder, _turn(library.parent):
        if _is_whole(library):
            return False
        built = Path(folder.name) / library.name
        # The runtime replaces the compiler's own, which -fopenmp would link.
        objects = Path(folder.name) / "kernel.o"
        compile_only = [flag for flag in FLAGS if flag != "-shared"]
        _run([*compiler, *compile_only, "-c", *arguments, "-o", str(objects)])
        _run([*compiler, "-shared", str(objects), runtime, "-o", str(built)])
        _digest_file(library).write_text(hashlib.sha256(built.read_bytes()).hexdigest())
        built.replace(library)
    return True


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Let processes build one after another. On a file system without locks they build at once: no harm."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _run(command: list[str]) -> None:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise CannotBuild(f"{command[0]} did not finish within {_TIMEOUT_S} s") from error
    except OSError as error:
        raise CannotBuild(f"{command[0]} cannot be run: {error.strerror}") from error
    if ended.returncode != 0:
        lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines or ["no message"]
        raise CannotBuild(f"{command[0]} could not build the kernel: {errors[0]}")
