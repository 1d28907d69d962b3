"""What a run keeps of an environment: its interpreter, libraries and code."""

from __future__ import annotations

from typing import Any

from gqabench.harness.machine.host import HostDescription
from gqabench.harness.machine.kernel_files import without_unknown
from gqabench.harness.machine.source import git_state, source_hash
from gqabench.harness.workers.environments import Environment


def describe_environment(environment: Environment, host: HostDescription | None) -> dict[str, Any]:
    """Describe interpreter, libraries and code of an environment; `host` is None where no worker starts."""
    of_host: dict[str, Any] = {}
    if host is not None:
        of_host = {
            "python": host.python,
            "libraries": {**host.libraries, "cuda": host.cuda, "cudnn": host.cudnn},
            "plugins": dict(host.plugins),
            "num_torch_threads": host.num_threads,
        }
    code = {"source_hash": source_hash(environment.source_root), **git_state(environment.source_root)}
    return without_unknown({"interpreter": environment.python, **of_host, "code": code})
