"""A git revision of this project as an environment: its files, and an interpreter that satisfies its lock.

Both are kept in the user's cache folder. Files come from `git archive`, so that nothing is registered in the
user's repository, and a tree is either complete or absent.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from gqabench.attention_impls.cache_folder import user_cache_folder
from gqabench.harness.errors import UsageError
from gqabench.harness.workers.environments import Environment

LOCK_NAME = "requirements.lock"
KERNEL_LIBRARIES = re.compile(
    r"torch|numpy|triton|nvidia-.*|flash.*|xformers|transformers|onnxruntime.*|jax.*|kernels"
)
"""Libraries whose version can change what is measured: others may differ between two revisions' locks."""


def resolve_revision(repository: Path, revision: str) -> str:
    """Return the commit's hash. Raises `UsageError` if there is no such commit."""
    finished = _git(
        repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
    )
    if finished.returncode:
        raise UsageError(
            f"{revision}: is not a git revision here, an interpreter or a folder; valid: for example HEAD~1,"
            " main, path/to/venv/bin/python, path/to/checkout"
        )
    return finished.stdout.decode().strip()


def checkout(repository: Path, commit: str, cache: Path) -> Path:
    """Return a folder with the files of a commit, created once.

    Raises `UsageError` for a commit that is not of gqabench.
    """
    folder = cache / "trees" / commit
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        _unpack(repository, commit, unfinished)
        if not (unfinished / "harness/worker/__main__.py").is_file():
            raise UsageError(f"{commit}: is not a revision of gqabench: it has no harness/worker/__main__.py")
        with suppress(OSError):  # another process created it first
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _unpack(repository: Path, commit: str, folder: Path) -> None:
    with tempfile.TemporaryFile() as archive:
        made = subprocess.run(["git", "archive", commit], cwd=_top(repository), stdout=archive, check=False)
        archive.seek(0)
        unpacked = subprocess.run(["tar", "-xf", "-"], cwd=folder, stdin=archive, check=False)
    if made.returncode or unpacked.returncode:
        raise UsageError(f"{commit}: git archive could not write its files to {folder}")


def revision_environment(name: str, repository: Path, revision: str, own_lock: Path) -> Environment:
    """Return the environment of a revision.

    It has packages of its own only where its lock pins others. Raises `UsageError`.
    """
    cache = user_cache_folder()
    tree = checkout(repository, resolve_revision(repository, revision), cache)
    wanted = kernel_pins(tree / LOCK_NAME)
    if not wanted or wanted == kernel_pins(own_lock):
        return Environment(name, sys.executable, tree)
    return Environment(name, str(_virtual_environment(tree / LOCK_NAME, wanted, cache)), tree)


def kernel_pins(lock: Path) -> dict[str, str]:
    """Return the locked libraries that can change a measurement, with versions; empty without a lock."""
    try:
        lines = lock.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pins = [line.split()[0].partition("==") for line in lines if line and not line.startswith("#")]
    return {name: version for name, _, version in pins if KERNEL_LIBRARIES.fullmatch(name)}


def _virtual_environment(lock: Path, pins: dict[str, str], cache: Path) -> Path:
    """Return the interpreter of a virtual environment with the pinned libraries, created once.

    The dependencies of the pinned libraries are constrained by the lock.
    """
    name = hashlib.sha256(repr(sorted(pins.items())).encode()).hexdigest()[:12]
    folder = cache / "environments" / f"{name}-{sys.version_info[0]}.{sys.version_info[1]}"
    python = folder / "bin" / "python"
    stamp = folder / ".ready"
    if stamp.exists():
        return python
    print(
        f"creating a virtual environment with {', '.join(f'{one}=={pins[one]}' for one in pins)}",
        file=sys.stderr,
    )
    steps = [
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet", "install",
         "--constraint", str(lock), *(f"{one}=={version}" for one, version in pins.items())],
    ]  # fmt: skip
    for step in steps:
        finished = subprocess.run(step, capture_output=True, text=True, check=False)
        if finished.returncode:
            said = finished.stderr.strip().splitlines() or ["no error message"]
            raise UsageError(f"{lock}: its virtual environment could not be created: {said[-1]}")
    stamp.touch()
    return python


def _top(repository: Path) -> Path:
    return Path(_git(repository, "rev-parse", "--show-toplevel").stdout.decode().strip())


def _git(repository: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", *arguments], cwd=repository, capture_output=True, check=False)
    except OSError as error:
        raise UsageError(f"git: cannot be run: {error.strerror}") from error
