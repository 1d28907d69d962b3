"""What the harness itself costs. Run it on a quiet machine: `make bench-harness`.

It prints each figure beside its target and asserts nothing, as machines differ. `--json FILE` keeps them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NUM_STARTS = 7
NUM_CASES = 40
NUM_PLANNED = 1000
NUM_RECORDS = 10_000
NUM_WATCHED_PAIRS = 30
WATCHED_SECONDS = 1.0

WORKER_OPERATIONS = ("open_case", "prepare", "weigh", "measure", "verify", "close_case")


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    target: float | None = None
    unit: str = "ms"

    def __str__(self) -> str:
        target = "" if self.target is None else f"   target: under {self.target:,g} {self.unit}"
        return f"{self.name:<66} {self.value:>10,.2f} {self.unit}{target}"


class Stopwatch:
    """Sums the time spent in a method, in all and by its first argument, while it is open."""

    def __init__(self, owner: type, method: str) -> None:
        self._owner, self._method = owner, method
        self._original: Callable[..., Any] = getattr(owner, method)
        self.total_ms = 0.0
        self.ms_by_argument: dict[Any, float] = {}

    def __enter__(self) -> Stopwatch:
        def timed(owner: Any, *arguments: Any, **keywords: Any) -> Any:
            started = time.perf_counter()
            try:
                return self._original(owner, *arguments, **keywords)
            finally:
                elapsed_ms = (time.perf_counter() - started) * 1e3
                self.total_ms += elapsed_ms
                if arguments and isinstance(arguments[0], str):
                    before_ms = self.ms_by_argument.get(arguments[0], 0.0)
                    self.ms_by_argument[arguments[0]] = before_ms + elapsed_ms

        setattr(self._owner, self._method, timed)
        return self

    def __exit__(self, *_: object) -> None:
        setattr(self._owner, self._method, self._original)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parsed = parser.parse_args()
    figures = []
    for measure in (
        measure_starts,
        measure_planning,
        measure_cases,
        measure_share,
        measure_monitor,
        measure_report,
    ):
        for figure in measure():
            figures.append(figure)
            print(figure, flush=True)
    if parsed.json is not None:
        parsed.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")


def measure_starts() -> Iterator[Figure]:
    """Whole commands, each in a fresh process: the median of several."""
    for arguments in (["--help"], ["list", "shapes"]):
        command = [
            sys.executable,
            "-c",
            "import sys; from gqabench.harness.cli import main; sys.exit(main())",
            *arguments,
        ]
        times_ms = []
        for _ in range(NUM_STARTS):
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times_ms.append((time.perf_counter() - started) * 1e3)
        yield Figure(f"gqabench {' '.join(arguments)}", statistics.median(times_ms), 500)


def measure_planning() -> Iterator[Figure]:
    """Points of a sweep to checked cases."""
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    from gqabench.harness.cases.case import CURRENT_ENVIRONMENT
    from gqabench.harness.cases.keys import register_keys
    from gqabench.harness.sweep.job import job_process
    from gqabench.harness.sweep.sweeper import plan_points

    register_keys()
    process = job_process()
    process.pool.host(process.environments[CURRENT_ENVIRONMENT])  # the worker's start is not planning
    with initialize_config_module("gqabench.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = compose("sweep", return_hydra_config=True)
        points = [(f"kv_len={length}", "batch_size=2") for length in range(1, NUM_PLANNED + 1)]
        with Stopwatch(type(loader), "load_sweep_config") as composing:
            started = time.perf_counter()
            planned = plan_points(loader, master, points)
            total_ms = (time.perf_counter() - started) * 1e3
    assert len({point.case.case_id for point in planned}) == NUM_PLANNED
    yield Figure(f"planning {NUM_PLANNED} cases: Hydra's composing", composing.total_ms)
    yield Figure(f"planning {NUM_PLANNED} cases: all else", total_ms - composing.total_ms, 2000)


def measure_cases() -> Iterator[Figure]:
    """Small cases on a warm worker: what a case costs beside what it measures."""
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    from gqabench.harness.cli import main as gqabench
    from gqabench.harness.workers.process import WorkerProcess

    lengths = ",".join(str(length) for length in range(16, 16 + NUM_CASES))
    arguments = [
        "sweep",
        "-m",
        "model=gqa_8_2",
        "measure=smoke",
        f"kv_len={lengths}",
        "impls=[grouped_matmul]",
    ]
    requests, launching = Stopwatch(WorkerProcess, "request"), Stopwatch(BasicLauncher, "launch")
    with _empty_folder(), _without_output(), requests, launching:
        code = gqabench(arguments)
    assert code == 0
    in_worker_ms = sum(requests.ms_by_argument[operation] for operation in WORKER_OPERATIONS)
    yield Figure("a case: in all", launching.total_ms / NUM_CASES)
    for operation in WORKER_OPERATIONS:
        yield Figure(f"a case: in the worker, {operation}", requests.ms_by_argument[operation] / NUM_CASES)
    yield Figure("a case: outside the worker", (launching.total_ms - in_worker_ms) / NUM_CASES, 100)


def measure_share() -> Iterator[Figure]:
    """A standard sweep of about a hundred cells: how much of its wall time is spent in timed calls."""
    from gqabench.harness.cli import main as gqabench
    from gqabench.harness.workers.process import WorkerProcess
    from gqabench.results.store import load

    impls = "repeat_kv,repeat_kv_sdpa,grouped_matmul,folded_sdpa,sdpa,sdpa_flash,sdpa_math,reference"
    arguments = ["sweep", "study=default", "kv_len=512,2048", f"impls=[{impls}]"]
    requests = Stopwatch(WorkerProcess, "request")
    with _empty_folder() as folder, _without_output(), requests:
        started = time.perf_counter()
        code = gqabench(arguments)
        wall_ms = (time.perf_counter() - started) * 1e3
        samples = load(folder / "results" / "runs" / "latest")["samples_ms"].dropna()
    assert code == 0
    timed_ms = sum(sum(one) for one in samples)
    yield Figure(f"a standard sweep of {len(samples)} cells, report included", wall_ms)
    yield Figure("  of this in timed calls (target: over half, warm-up counted)", timed_ms)
    yield Figure("  of this in timed calls, warm-up and flushes", requests.ms_by_argument["measure"])


def measure_monitor() -> Iterator[Figure]:
    """Pairs of slices of one arm, one with a watch and one without, in random order: the median ratio."""
    from gqabench.harness.cases.case import CURRENT_ENVIRONMENT
    from gqabench.harness.instruments.instrument_set import Instruments
    from gqabench.harness.machine.nvml import open_nvml
    from gqabench.harness.sweep.job import job_process

    process, order = job_process(), random.Random(0)
    worker = process.pool.ready(process.environments[CURRENT_ENVIRONMENT])
    monitor = Instruments(open_nvml()).monitor(None, worker.pid)
    problem = {
        "batch_size": 4, "q_len": 1, "kv_len": 4096, "num_q_heads": 32, "num_kv_heads": 8, "head_dim": 128,
        "dtype": "float32", "device": "cpu",
    }  # fmt: skip
    worker.request(
        "open_case", 60, problem=problem, workload="decode", hidden_size=4096, seed=0, max_check_gflop=1.0
    )
    worker.request("prepare", 60, arm="folded_sdpa", impl="folded_sdpa")

    def slice_ms(num_calls: int) -> list[float]:
        reply = worker.request("measure", 60, arm="folded_sdpa", num_calls=num_calls, is_cold=False)
        samples: list[float] = reply["samples_ms"]
        return samples

    num_calls = max(int(WATCHED_SECONDS * 1e3 / statistics.median(slice_ms(20))), 1)
    ratios = []
    for _ in range(NUM_WATCHED_PAIRS):
        means = {}
        for is_watched in order.sample([True, False], 2):
            with monitor.watching() if is_watched else contextlib.nullcontext():
                means[is_watched] = statistics.fmean(slice_ms(num_calls))
        ratios.append(means[True] / means[False])
    worker.request("close_case", 60)
    began_cpu_s, began_s = time.process_time(), time.perf_counter()
    with monitor.watching():
        time.sleep(5 * WATCHED_SECONDS)
    share = (time.process_time() - began_cpu_s) / (time.perf_counter() - began_s)
    yield Figure("the monitor's own CPU time, of one core (its slow-down is no larger)", share * 100, 1, "%")
    low, _, high = statistics.quantiles(ratios, n=4)
    slow_down = (statistics.median(ratios) - 1) * 100
    yield Figure(
        f"slow-down by the monitor (quartiles {(low - 1) * 100:.1f} to {(high - 1) * 100:.1f} %)",
        slow_down,
        1,
        "%",
    )


def measure_report() -> Iterator[Figure]:
    """Many records, from disk to the page."""
    from gqabench.harness.cli.report import report_runs
    from gqabench.results.store import load

    with _empty_folder() as folder, _without_output():
        run = _write_run(folder)
        started = time.perf_counter()
        frame = load(run)
        loaded = time.perf_counter()
        report_runs([str(run)], folder / "report")
        reported = time.perf_counter()
    assert len(frame) == NUM_RECORDS
    yield Figure(f"loading {NUM_RECORDS} records from JSON lines", (loaded - started) * 1e3)
    yield Figure(f"loading and reporting {NUM_RECORDS} records", (reported - loaded) * 1e3, 20_000)


def _write_run(folder: Path) -> Path:
    """A made-up run of as many records, 20 samples each; its numbers mean nothing."""
    from gqabench.attention_impls import AttentionProblem, list_impls
    from gqabench.harness.cases.case import Arm, Case, MeasureSettings
    from gqabench.results import Outcome, Record, RunFolder, RunHeader
    from gqabench.results.statistics.derive import rate_fields, timing_fields

    generator = random.Random(0)
    impls = list_impls()[:10]
    settings = MeasureSettings(
        name="smoke",
        target_interval=0.1,
        min_rounds=1,
        seconds_per_arm=1,
        slice_ms=1,
        timeout_s=1,
        caches=("cold",),
        roofs=False,
        energy=False,
        max_check_gflop=1,
    )
    header = RunHeader(
        run_id="made-up",
        status="complete",
        created_at="2026-01-01T00:00:00+00:00",
        command="none",
        num_planned_cases=NUM_RECORDS // len(impls),
        num_planned_records=NUM_RECORDS,
        seed=0,
        measure="smoke",
        gqabench_version="0",
    )
    run = RunFolder.create(folder / "made-up", header)
    shapes = itertools.product(
        (32, 8, 4, 2, 1), (1, 2, 4, 8, 16), range(1, 1 + NUM_RECORDS // len(impls) // 25)
    )
    lines = []
    for num_kv_heads, batch_size, step in shapes:
        problem = AttentionProblem(
            batch_size=batch_size,
            q_len=1,
            kv_len=512 * step,
            num_q_heads=32,
            num_kv_heads=num_kv_heads,
            head_dim=128,
            dtype="float32",
            device="cpu",
        )
        case = Case(
            problem=problem,
            workload="decode",
            model="llama3_8b",
            num_layers=32,
            tp=1,
            arms=tuple(Arm(impl) for impl in impls),
            measure=settings,
            seed=0,
        )
        model = case.model_fields()
        for index, impl in enumerate(impls):
            timing = timing_fields([generator.uniform(1, 2) * step * num_kv_heads for _ in range(20)])
            rates = rate_fields(timing["latency_ms"], batch_size, model["model_bytes"], model["model_flops"])
            record = Record(
                run_id=header.run_id,
                case_id=case.case_id,
                cell_id=f"{case.case_id}-{index}",
                impl=impl,
                environment="current",
                outcome=Outcome.OK,
                kv_cache_bytes=model["kv_cache_bytes_model"],
                peak_workspace_bytes=index * model["kv_cache_bytes_model"],
                **case.shape_fields() | model | timing | rates,
            )
            lines.append(json.dumps(record.to_dict()))
    (run.path / "records" / "made-up.jsonl").write_text("\n".join(lines) + "\n")
    return run.path


@contextlib.contextmanager
def _empty_folder() -> Iterator[Path]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


@contextlib.contextmanager
def _without_output() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


if __name__ == "__main__":
    main()
