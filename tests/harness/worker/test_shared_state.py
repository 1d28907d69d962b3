from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from gqabench.harness.worker.shared_state import SharedState

CHANGES: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "num_threads": (
        lambda: torch.set_num_threads(torch.get_num_threads() + 1),
        lambda: torch.set_num_threads(torch.get_num_threads() - 1),
    ),
    "default dtype": (
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_default_dtype(torch.float32),
    ),
    "default device": (lambda: torch.set_default_device("meta"), lambda: torch.set_default_device(None)),
    "grad mode": (lambda: torch.set_grad_enabled(False), lambda: torch.set_grad_enabled(True)),
    "anomaly detection": (
        lambda: torch.autograd.set_detect_anomaly(True),
        lambda: torch.autograd.set_detect_anomaly(False),
    ),
    "deterministic algorithms": (
        lambda: torch.use_deterministic_algorithms(True),
        lambda: torch.use_deterministic_algorithms(False),
    ),
    "seed": (lambda: torch.manual_seed(torch.initial_seed() + 1), lambda: torch.manual_seed(0)),
    "float32 matmul precision": (
        lambda: torch.set_float32_matmul_precision("high"),
        lambda: torch.set_float32_matmul_precision("highest"),
    ),
    "cudnn.benchmark": (
        lambda: setattr(torch.backends.cudnn, "benchmark", True),
        lambda: setattr(torch.backends.cudnn, "benchmark", False),
    ),
    "math_sdp": (
        lambda: torch.backends.cuda.enable_math_sdp(False),
        lambda: torch.backends.cuda.enable_math_sdp(True),
    ),
    "working directory": (lambda: os.chdir("/"), lambda: None),
}
"""How to change what a name stands for, and how to change it back."""


@pytest.fixture(params=list(CHANGES))
def changed(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, list[str]]]:
    """A name, and what is reported once that has changed."""
    monkeypatch.chdir(Path.cwd())  # and back, at the end
    change, undo = CHANGES[request.param]
    before = SharedState.now()
    change()
    try:
        yield request.param, SharedState.now().changes_since(before)
    finally:
        undo()


def test_what_changed_is_named(changed: tuple[str, list[str]]) -> None:
    name, changes = changed
    assert any(change.startswith(f"{name} from ") for change in changes), changes


def test_random_numbers_and_ordinary_work_change_nothing() -> None:
    before = SharedState.now()
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(5)
        torch.randn(64, 64) @ torch.randn(64, 64)
    torch.randn(3)
    assert SharedState.now().changes_since(before) == []


def test_a_new_thread_counts_while_it_computes() -> None:
    is_over = threading.Event()

    def spin() -> None:
        while not is_over.is_set():
            pass

    def rest() -> None:
        is_over.wait()

    before = SharedState.now()
    threads = [threading.Thread(target=rest), threading.Thread(target=spin)]
    for thread in threads:
        thread.start()
    try:
        assert SharedState.now().changes_since(before) == ["the number of busy threads by 1"]
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def test_a_thread_that_comes_to_rest_does_not_count() -> None:
    before = SharedState.now()
    until = time.monotonic() + 0.2

    def spin_for_a_while() -> None:
        while time.monotonic() < until:
            pass
        time.sleep(0.5)

    thread = threading.Thread(target=spin_for_a_while)
    thread.start()
    assert SharedState.now().changes_since(before) == []
    thread.join()
