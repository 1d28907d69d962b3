from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from gqabench.attention_impls import AttentionProblem
from gqabench.harness.workers.environments import Environment
from gqabench.harness.workers.operations import Operations
from gqabench.harness.workers.process import RequestFailed, WorkerFailed, WorkerProcess, without_chatter
from gqabench.harness.workers.replies import CaseOpened

PROBLEM = AttentionProblem(
    batch_size=2,
    q_len=1,
    kv_len=40,
    num_q_heads=4,
    num_kv_heads=2,
    head_dim=16,
    dtype="float32",
    device="cpu",
)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    log = tmp_path_factory.mktemp("logs") / "worker.log"
    with WorkerProcess(Environment("current"), log) as process:
        process.describe_host(120)
        yield process


def open_case(worker: WorkerProcess, **changes: Any) -> CaseOpened:
    case = {"workload": "decode", "hidden_size": 64, "seed": 0, "max_check_gflop": 1.0}
    return Operations(worker, 60).open_case(case | {"problem": asdict(PROBLEM) | changes})


def test_the_host_says_what_it_has(worker: WorkerProcess) -> None:
    host = worker.describe_host(60)
    cpu = host.device("cpu")
    assert cpu is not None
    assert cpu.last_level_cache_bytes >= 2**18
    assert "torch" in host.libraries
    assert "hydra" not in str(host).lower()


def test_a_case_from_open_to_close(worker: WorkerProcess) -> None:
    ask = Operations(worker, 60)
    opened = open_case(worker)
    assert opened.error_budget > 0
    assert opened.num_checked_queries == 1
    prepared = ask.prepare("a", "grouped_matmul")
    assert prepared.kv_cache_bytes == 2 * 2 * 2 * 40 * 16 * 4
    assert 0 < prepared.max_error <= opened.error_budget
    memory, again = ask.measure_memory("a"), ask.measure_memory("a")
    moved = again.process_bytes - memory.process_bytes  # resident memory, which a page may join
    assert again.unexplained_bytes - memory.unexplained_bytes == moved
    assert memory == replace(
        again, process_bytes=memory.process_bytes, unexplained_bytes=memory.unexplained_bytes
    )
    samples_ms = ask.time_calls("a", 5, is_cold=True).samples_ms
    assert len(samples_ms) == 5
    assert min(samples_ms) > 0
    assert ask.verify("a").max_error <= opened.error_budget
    assert not ask.close_case().is_spoilt


def test_the_worker_lives_on_after_a_failed_request(worker: WorkerProcess) -> None:
    open_case(worker)
    with pytest.raises(RequestFailed, match="no such kernel for the CPU") as caught:
        Operations(worker, 60).prepare("a", "sdpa_cudnn")
    assert caught.value.failure.outcome == "unsupported"
    Operations(worker, 60).prepare("b", "sdpa")


def test_memory_that_is_not_there_is_oom(worker: WorkerProcess) -> None:
    with pytest.raises(RequestFailed) as caught:
        open_case(worker, kv_len=2**38)
    assert caught.value.failure.outcome == "oom"


def test_silence_is_a_timeout_that_costs_the_parent_no_time_and_ends_the_worker(tmp_path: Path) -> None:
    with WorkerProcess(Environment("current"), tmp_path / "log") as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        before = time.process_time()
        with pytest.raises(WorkerFailed, match=r"no answer within 1 s") as caught:
            worker.request("close_case", 1.0)
        assert time.process_time() - before < 0.2  # a busy wait would take the whole second
        assert caught.value.outcome == "timeout"
        assert not Path(f"/proc/{worker.pid}").exists()


def test_a_killed_worker_is_a_crash_with_its_signal(tmp_path: Path) -> None:
    with WorkerProcess(Environment("current"), tmp_path / "log") as worker:
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerFailed, match="SIGKILL") as caught:
            worker.request("close_case", 60)
        assert caught.value.outcome == "crash"


def test_an_interpreter_without_torch_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('no torch here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        WorkerProcess(Environment("current"), tmp_path / "log") as worker,
        pytest.raises(WorkerFailed, match="no torch here"),
    ):
        worker.describe_host(60)


def test_a_worker_that_was_never_asked_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").mkdir()
    loaded = tmp_path / "loaded"
    loads_slowly = f"import time; time.sleep(0.5); open({str(loaded)!r}, 'w'); raise ImportError"
    (tmp_path / "torch" / "__init__.py").write_text(loads_slowly)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with WorkerProcess(Environment("current"), tmp_path / "log") as worker:
        pass
    assert not Path(f"/proc/{worker.pid}").exists()
    assert not loaded.exists()


def test_chatter_of_the_profiler_is_left_out() -> None:
    lines = [b"USDT:2026 start\n", b"Traceback\n", b"KeyError: 'x'\n", b"USDT:2026 stop\n"]
    lines.insert(
        2, b"ERROR:2026-11-25 15:00:07 9:9 DeviceProperties.cpp:48] gpuGetDeviceCount failed with code 35\n"
    )
    assert list(without_chatter(lines)) == [b"Traceback\n", b"KeyError: 'x'\n"]
