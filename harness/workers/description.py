"""What a run keeps of an environment: its interpreter, libraries and code."""

from __future__ import annotations

from typing import Any

from gqabench.harness.machine.kernel_files import without_unknown
from gqabench.harness.machine.source import git_state, source_hash
from gqabench.harness.workers.environments import Environment


def describe_environment(environment: Environment, host: dict[str, Any] | None) -> dict[str, Any]:
    """Interpreter, libraries and code of an environment; `host` is its worker's word, if it gave one."""
    host = host or {}
    return without_unknown(
        {
            "interpreter": environment.python,
            "python": host.get("python"),
            "libraries": host.get("libraries", {}) | {name: host.get(name) for name in ("cuda", "cudnn")},
            "plugins": host.get("plugins"),
            "num_torch_threads": host.get("num_threads"),
            "code": {"source_hash": source_hash(environment.source_root)}
            | git_state(environment.source_root),
        }
    )
