"""The source of the code that runs: where it stands, its version, revision and hashes. Imports no torch."""

from __future__ import annotations

import hashlib
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SOURCE_ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds `attention_impls` and its four neighbours: a checkout, or an installed `gqabench`."""
LOCK = SOURCE_ROOT / "requirements.lock"
_FOLDERS = ("gqabench", "conf", "harness", "attention_impls", "results", "reports")
_MEASURED_SOURCES = ("attention_impls", "harness/worker")
_SOURCE_SUFFIXES = (".py", ".cpp", ".h")


@cache
def source_hash(source_root: Path = SOURCE_ROOT) -> str:
    """Hash the code that is measured and that measures: implementations and worker."""
    digest = hashlib.sha256()
    for folder in _MEASURED_SOURCES:
        files = [path for path in (source_root / folder).rglob("*") if path.suffix in _SOURCE_SUFFIXES]
        for path in sorted(files):
            digest.update(path.relative_to(source_root).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def gqabench_version() -> str:
    """Return the installed version; `source` when it is run without being installed."""
    try:
        return version("gqabench")
    except PackageNotFoundError:
        return "source"


def git_state(folder: Path) -> dict[str, Any]:
    """Return the revision of a checkout, and whether files that count differ; empty where there is none.

    New files count in the packages, whose code would run.
    """
    if not (folder / ".git").exists():
        return {}
    try:
        revision = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "-uno")
        added = _git(folder, "ls-files", "--others", "--exclude-standard", "--", *_FOLDERS)
        return {"git_revision": revision, "git_dirty": bool(changed or added)}
    except (OSError, subprocess.SubprocessError):
        return {}


def lock_hash(lock: Path) -> str | None:
    """Return the SHA-256 of the file of locked dependencies; None where there is none."""
    try:
        return hashlib.sha256(lock.read_bytes()).hexdigest()
    except OSError:
        return None


def _git(folder: Path, *arguments: str) -> str:
    finished = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=20
    )
    return finished.stdout.strip()
