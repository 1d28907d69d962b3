"""Whether everything works on a GPU: short checks, most telling first, each reported as soon as it exists.

    python operations/quick_checks.py --seconds 170 --json checks.jsonl

One worker makes them, the same one that a sweep measures with, so that torch is imported once; it is replaced
when a check crashes or hangs. Each check is one JSON line: its name, outcome (ok, failed, unsupported,
crashed or timeout), seconds, and what was seen. Called again it makes those that it has not made, and then
those that were not ok.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sweep_parts import is_rehearsal, positive_seconds, run_script

from gqabench.attention_impls import AttentionProblem
from gqabench.harness.instruments.energy import infer_period_s, open_energy_meter
from gqabench.harness.instruments.roofs import ask_for_roofs, roofs_for
from gqabench.harness.machine.host import Device, HostDescription
from gqabench.harness.machine.nvml import open_nvml
from gqabench.harness.machine.roofs import Roofs
from gqabench.harness.workers.environments import CURRENT_ENVIRONMENT, Environment
from gqabench.harness.workers.pool import WorkerPool
from gqabench.harness.workers.process import RequestFailed, WorkerFailed, WorkerProcess

DECODE, PREFILL, HALF_L2 = "decode", "prefill", "half_l2"
DECODE_IMPLS = (
    "sdpa_flash", "triton_decode", "flashinfer_decode", "flash_attn_3", "sdpa_cudnn", "sdpa", "cudnn_paged",
    "flashinfer_xqa", "xformers_splitk", "torch_varlen", "sdpa_efficient", "sdpa_math", "flex",
)  # fmt: skip
PREFILL_IMPLS = (
    "sdpa_flash", "triton_prefill", "flash_attn_3", "sdpa_cudnn", "sdpa", "cudnn_paged", "torch_varlen",
    "sdpa_efficient", "sdpa_math", "flex", "flashinfer_prefill",
)  # fmt: skip
LONG_COMPILE_S = 30.0
"""For `flex`, which compiles, and for our kernels, which compile their candidates."""
SHORT_S = 15.0
NUM_CALLS = 20
LEAST_SECONDS = 3.0
MOST_OF_REASON = 500
_OUTCOMES = {"ok": "ok", "unsupported": "unsupported", "crash": "crashed", "timeout": "timeout"}
_KEPT = (
    "max_error", "error_ratio", "error_budget", "kernels", "num_launches", "peak_workspace_bytes",
    "kv_cache_bytes", "prepare_ms", "compile_ms", "autotune_ms", "kernel_config", "latency_ms",
    "graph_latency_ms", "graph_reason", "kernel_ms", "eager_ms", "read_gb_per_s",
)  # fmt: skip

Seen = dict[str, Any]


class CheckFailed(Exception):
    """What a check saw is not as it should be; the message says what."""

    def __init__(self, reason: str, seen: Seen) -> None:
        super().__init__(reason)
        self.seen = seen


@dataclass(frozen=True)
class Check:
    """One check and the most that it may take."""

    name: str
    seconds: float
    make: Callable[[CheckBench, float], Seen]
    """Takes the bench and the end of its time on the monotonic clock"""


class CheckBench:
    """A worker, and which problem is open in it."""

    def __init__(self, problems: dict[str, AttentionProblem], log_folder: Path) -> None:
        self.problems = problems
        self.nvml = open_nvml()
        self.environment = Environment(CURRENT_ENVIRONMENT)
        self._pool = WorkerPool()
        self._pool.keep_logs_in(log_folder)
        self._open: str | None = None
        self._opened: Seen = {}

    @property
    def worker(self) -> WorkerProcess:
        return self._pool.ready(self.environment)

    @property
    def host(self) -> HostDescription:
        return self._pool.host(self.environment)

    @property
    def gpu(self) -> Device:
        """The first GPU of the host. Raises `CheckFailed` where there is none."""
        gpu = self.host.device("cuda")
        if gpu is None:
            raise CheckFailed("torch sees no CUDA device", {})
        return gpu

    def open(self, name: str, ends_at: float) -> Seen:
        """Make the inputs and the float64 reference of a problem, unless they are there."""
        worker = self.worker
        if self._open != name:
            self._open = None
            arguments = {"problem": asdict(self.problems[name]), "workload": name, "hidden_size": 64}
            self._opened = worker.request(
                "open_case",
                left(ends_at),
                **arguments | {"workload": DECODE, "seed": 0, "max_check_gflop": 2},
            )
            self._open = name
        return self._opened

    def discard(self) -> None:
        """End the worker; the next check starts another."""
        self._open = None
        self._pool.discard(self.environment)

    def close(self) -> None:
        self._pool.close()


def left(ends_at: float) -> float:
    """Seconds until a moment of the monotonic clock, at least one."""
    return max(ends_at - time.monotonic(), 1.0)


def see_device(bench: CheckBench, _: float) -> Seen:
    """See which device and which libraries there are."""
    return {"gpu": bench.gpu.to_dict(), "driver": bench.host.driver, "libraries": dict(bench.host.libraries)}


def see_nvml(bench: CheckBench, _: float) -> Seen:
    """See what NVML tells: memory of the device and of the worker, a clock, power, and a moving counter."""
    uuid, nvml = bench.gpu.uuid, bench.nvml
    if uuid is None:
        raise CheckFailed("torch gives no UUID of the GPU", {})
    meter = open_energy_meter(nvml, uuid)
    seen = {
        "device_bytes": nvml.device_memory_bytes(uuid),
        "process_bytes": nvml.process_memory_bytes(uuid, bench.worker.pid),
        "power_w": nvml.power_w(uuid),
        "sm_clock_mhz": nvml.sm_clock_mhz(uuid),
        "energy_period_s": None if meter is None else infer_period_s(meter),
    }
    if seen["device_bytes"] is None:
        raise CheckFailed("NVML tells no memory of the device", seen)
    if seen["energy_period_s"] is None:
        raise CheckFailed("NVML's energy counter is not available, or does not move", seen)
    return seen


def see_roofs(bench: CheckBench, _: float) -> Seen:
    """Measure the roofs, which the sweeps on this machine then find."""
    return _roofs(bench).to_dict()


def _roofs(bench: CheckBench) -> Roofs:
    gpu = bench.gpu
    return roofs_for(gpu, bench.host, lambda: ask_for_roofs(bench.worker, gpu))


def see_attention(bench: CheckBench, ends_at: float, problem: str, impl: str) -> Seen:
    """Check an implementation's outputs against float64, weigh it, and time it on cold caches."""
    seen = dict(bench.open(problem, ends_at))
    worker = bench.worker
    arm = {"arm": impl}
    try:
        seen |= worker.request("prepare", left(ends_at), impl=impl, **arm)
        seen |= worker.request("weigh", left(ends_at), **arm)
        timed = worker.request("measure", left(ends_at), num_calls=NUM_CALLS, is_cold=True, **arm)
        seen |= {"latency_ms": median(timed["samples_ms"])}
        seen |= worker.request("verify", left(ends_at), **arm)
        with suppress(RequestFailed):  # other ways of timing: what was checked stands
            seen |= worker.request("cross_check", left(ends_at), **arm)
        if "cannot be captured" in (seen.get("graph_reason") or ""):
            bench.discard()  # a capture that breaks leaves marks on the process
        else:
            worker.request("drop", left(ends_at), **arm)
    except RequestFailed as failure:
        _forget(bench, impl, failure)
        raise
    return {key: seen[key] for key in _KEPT if seen.get(key) is not None}


def _forget(bench: CheckBench, impl: str, failure: RequestFailed) -> None:
    """Free what a failed check holds, or the worker with it."""
    if failure.failure.is_poisoned:
        bench.discard()
        return
    with suppress(RequestFailed):
        bench.worker.request("drop", SHORT_S, arm=impl)


def see_coldness(bench: CheckBench, ends_at: float) -> Seen:
    """See whether a call after a flush reads from memory, and one without a flush from the L2."""
    problem = bench.problems[HALF_L2]
    num_bytes = 2 * problem.batch_size * problem.num_kv_heads * problem.kv_len * problem.head_dim * 2
    roofs = _roofs(bench)
    bench.open(HALF_L2, ends_at)
    worker, arm = bench.worker, {"arm": "sdpa_flash"}
    worker.request("prepare", left(ends_at), impl="sdpa_flash", **arm)
    medians = {
        is_cold: median(
            worker.request("measure", left(ends_at), num_calls=50, is_cold=is_cold, **arm)["samples_ms"]
        )
        for is_cold in (True, False)
    }
    worker.request("drop", left(ends_at), **arm)
    seen = {
        "kv_bytes": num_bytes,
        "cold_ms": medians[True],
        "warm_ms": medians[False],
        "cold_gb_per_s": num_bytes / medians[True] / 1e6,
        "warm_gb_per_s": num_bytes / medians[False] / 1e6,
        "read_roof_gb_per_s": roofs.read.best,
    }
    if roofs.is_beaten_by(seen["cold_gb_per_s"]):
        raise CheckFailed("a call after a flush is faster than memory can be read", seen)
    if medians[True] <= medians[False]:
        raise CheckFailed("a call after a flush takes no longer than one without", seen)
    return seen


def checks() -> list[Check]:
    """Return the checks, most telling first."""

    def attention(problem: str, impl: str) -> Check:
        compiles = impl == "flex" or impl.startswith("triton")
        seconds = LONG_COMPILE_S if compiles else SHORT_S
        return Check(
            f"{impl} {problem}", seconds, lambda bench, ends_at: see_attention(bench, ends_at, problem, impl)
        )

    return [
        Check("device", SHORT_S, see_device),
        Check("nvml", SHORT_S, see_nvml),
        *(attention(DECODE, impl) for impl in DECODE_IMPLS[:4]),
        *(attention(PREFILL, impl) for impl in PREFILL_IMPLS[:4]),
        Check("roofs", 2 * SHORT_S, see_roofs),
        Check("coldness", SHORT_S, see_coldness),
        *(attention(DECODE, impl) for impl in DECODE_IMPLS[4:]),
        *(attention(PREFILL, impl) for impl in PREFILL_IMPLS[4:]),
    ]


def problems(rehearses: bool) -> dict[str, AttentionProblem]:
    """Return the problems of the checks by name, with Llama-3-8B's heads."""
    heads = (8, 2, 64) if rehearses else (32, 8, 128)
    kv_len = 48 if rehearses else 4096
    common = ("bfloat16", "cuda:0")
    return {
        DECODE: AttentionProblem(1 if rehearses else 8, 1, kv_len, *heads, *common),
        PREFILL: AttentionProblem(1, kv_len // 2, kv_len // 2, *heads, *common),
        HALF_L2: AttentionProblem(1, 1, 2 * kv_len if rehearses else 6144, *heads, *common),
    }


def made_before(path: Path) -> dict[str, list[str]]:
    """Return the outcomes of each check that a file holds, oldest first."""
    outcomes: dict[str, list[str]] = {}
    for line in lines_of(path):
        outcomes.setdefault(line["name"], []).append(line["outcome"])
    return outcomes


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file of checks; a last one that was cut off is left out."""
    if not path.exists():
        return
    for text in path.read_text().splitlines():
        with suppress(ValueError):
            yield json.loads(text)


def is_complete(path: Path) -> bool:
    """Return whether each check was made, and what was not ok was tried twice."""
    before = made_before(path)
    return all(
        (outcomes := before.get(check.name, [])) and (_is_answer(outcomes[-1]) or len(outcomes) > 1)
        for check in checks()
    )


def _is_answer(outcome: str) -> bool:
    return outcome in ("ok", "unsupported")


def open_checks(path: Path) -> list[Check]:
    """Return the checks that were never made, then those that were not ok."""
    before = made_before(path)
    never = [check for check in checks() if check.name not in before]
    again = [check for check in checks() if check.name in before and not _is_answer(before[check.name][-1])]
    return [*never, *again]


def make_checks(bench: CheckBench, chosen: Sequence[Check], path: Path, ends_at: float) -> None:
    """Make checks as long as there is time; each one's line is on disk before the next begins."""
    for check in chosen:
        if ends_at - time.monotonic() < LEAST_SECONDS:
            print("no time left; ask again", flush=True)
            return
        line = {"name": check.name, **outcome_of(bench, check, ends_at)}
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{check.name}: {line['outcome']}, {line['seconds']} s {line['reason'] or ''}", flush=True)


def outcome_of(bench: CheckBench, check: Check, ends_at: float) -> dict[str, Any]:
    """Make one check, and return its outcome with the seconds that it took and what was seen.

    The start of a worker is no part of its time.
    """
    started, outcome, reason, seen = time.monotonic(), "ok", None, {}
    try:
        bench.worker  # noqa: B018  waits until there is one
        started = time.monotonic()
        seen = check.make(bench, min(ends_at, started + check.seconds))
    except CheckFailed as failed:
        outcome, reason, seen = "failed", str(failed), failed.seen
    except RequestFailed as error:
        failure = error.failure
        outcome, reason = failure.outcome, failure.reason
        errors = {"max_error": failure.max_error, "error_ratio": failure.error_ratio}
        seen = {name: value for name, value in errors.items() if value is not None}
    except WorkerFailed as error:
        bench.discard()
        outcome, reason = error.outcome, str(error)
    return {
        "outcome": _OUTCOMES.get(outcome, "failed"),
        "reason": None if reason is None else reason[:MOST_OF_REASON],
        "seconds": round(time.monotonic() - started, 2),
        "seen": seen,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=positive_seconds, default=170.0, help="of this call; default: 170")
    parser.add_argument("--json", type=Path, default=Path("checks.jsonl"), metavar="FILE")
    parser.add_argument(
        "--check", action="append", metavar="NAME", help="only these; default: all that are open"
    )
    parser.add_argument("--rehearse", action="store_true", help="tiny problems, on whatever device there is")
    arguments = parser.parse_args()
    ends_at = time.monotonic() + arguments.seconds
    names = [check.name for check in checks()]
    if unknown := set(arguments.check or ()) - set(names):
        parser.error(f"--check {min(unknown)}: must be one of {', '.join(names)}")
    chosen = [check for check in checks() if check.name in (arguments.check or ())] or open_checks(
        arguments.json
    )
    bench = CheckBench(problems(is_rehearsal(arguments.rehearse)), arguments.json.parent)
    try:
        make_checks(bench, chosen, arguments.json, ends_at)
    finally:
        bench.close()


if __name__ == "__main__":
    run_script(main)
