"""The content of `gqabench list impls`. A worker asks each implementation: foreign code may hang or exit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from gqabench.attention_impls import AttentionProblem, list_impls
from gqabench.attention_impls.plugins.entry_points import plugin_versions, shadowed_plugins
from gqabench.attention_impls.registry import BUILT_IN_IMPLS
from gqabench.harness.errors import UsageError
from gqabench.harness.machine.devices import AUTO, resolve_device, resolve_dtype
from gqabench.harness.machine.host import Device
from gqabench.harness.workers.environments import CURRENT_ENVIRONMENT, Environment
from gqabench.harness.workers.pool import WorkerPool
from gqabench.harness.workers.process import RequestFailed, WorkerFailed
from gqabench.harness.workers.replies import Support

PHASES = {"decode": (1, 1024), "prefill": (1024, 1024), "extend": (16, 1024)}
"""New tokens and visible keys of the problems that each implementation is asked about."""

_ENVIRONMENT = Environment(CURRENT_ENVIRONMENT)


@dataclass(frozen=True)
class Listing:
    """All implementations, and what this machine can run."""

    device: str
    rows: list[list[str]]
    """Of each implementation: its name, yes or no for each phase, and the first reason why not"""
    plugins: list[list[str]]
    """Of each plug-in: its name and package, with a note if it is unreachable"""


def list_support(timeout_s: float) -> Listing:
    """Ask every implementation; one that does not answer in time has that as its reason."""
    pool = WorkerPool()
    try:
        host = pool.host(_ENVIRONMENT)
        device = resolve_device(AUTO, host)
        problems = [_probe_problem(device, *lengths) for lengths in PHASES.values()]
        rows = list(_rows(pool, problems, timeout_s))
    except WorkerFailed as failure:
        raise UsageError(f"no worker could be started: {failure}") from failure
    finally:
        pool.close()
    return Listing(problems[0].device_type, rows, _plugins())


def _rows(pool: WorkerPool, problems: list[AttentionProblem], timeout_s: float) -> Iterator[list[str]]:
    arguments = {"problems": [asdict(problem) for problem in problems]}
    for name in list_impls():
        worker = pool.ready(_ENVIRONMENT)
        try:
            reasons = worker.ask(Support, "explain_support", timeout_s, impl=name, **arguments).reasons
        except RequestFailed as refused:
            reasons = [[str(refused)]] * len(problems)
            if refused.failure.is_poisoned:
                pool.discard(_ENVIRONMENT)
        except WorkerFailed as failure:
            reasons = [[str(failure)]] * len(problems)
            pool.discard(_ENVIRONMENT)
        why = next(("; ".join(some) for some in reasons if some), "-")
        yield [name, *("no" if some else "yes" for some in reasons), " ".join(why.split())]


def _probe_problem(device: Device, q_len: int, kv_len: int) -> AttentionProblem:
    return AttentionProblem(
        batch_size=1,
        q_len=q_len,
        kv_len=kv_len,
        num_q_heads=32,
        num_kv_heads=8,
        head_dim=128,
        dtype=resolve_dtype(AUTO, device),
        device=device.kind,
    )


def _plugins() -> list[list[str]]:
    shadowed = shadowed_plugins(BUILT_IN_IMPLS)
    never = " (unreachable: a built-in implementation has this name)"
    return [
        [name, package + (never if name in shadowed else "")] for name, package in plugin_versions().items()
    ]
