"""One case at a time in the worker: its inputs, its arms, and what is asked of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from gqabench.attention_impls import AttentionImpl, AttentionProblem, PreparedAttention, get_impl
from gqabench.attention_impls.plugins.promises import promised_operators
from gqabench.harness.worker.memory.memory_limit import input_bytes, require_memory_for_inputs
from gqabench.harness.worker.memory.workspace import SetUpMemory, Weight, counting_allocated, weigh_call
from gqabench.harness.worker.prepared_arm import PreparedArm
from gqabench.harness.worker.subjects.subject import (
    NUM_TIMED_VARIANTS,
    UNSEEN_VARIANT,
    Check,
    Subject,
    UnsupportedProblem,
)
from gqabench.harness.worker.subjects.table import make_generate_subject, make_subject
from gqabench.harness.worker.timing.clock import Clock, make_clock
from gqabench.harness.worker.timing.cross_check import cross_check_fields

_MOST_CALLS_IN_FLIGHT = 32
"""A GPU's queue takes a thousand launches or so before the host has to wait."""


class IncorrectOutput(Exception):
    """An output that differs from the reference by more than its budget; the message says how."""

    def __init__(self, check: Check, when: str) -> None:
        super().__init__(f"{check.complaint} ({when})")
        self.max_error = check.max_error
        self.error_ratio = check.error_ratio


class BrokenPromise(Exception):
    """An implementation does what its contract rules out; the message says what."""


class Session:
    """State of the worker between requests. Every method takes and returns plain values."""

    def __init__(self) -> None:
        self._problem: AttentionProblem | None = None
        self._subject: Subject | None = None
        self._clocks: dict[str, Clock] = {}
        self._arms: dict[str, PreparedArm] = {}
        self._is_spoilt = False
        """Whether something of this case would disturb the next one in this process"""

    def open_case(
        self,
        problem: dict[str, Any],
        workload: str,
        hidden_size: int,
        seed: int,
        max_check_gflop: float,
        llama: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Make the inputs and the float64 reference of a case. `llama`: the fields of a `LlamaShape`."""
        self.close_case()
        self._problem = AttentionProblem(**problem)
        _make_current(torch.device(self._problem.device))
        require_memory_for_inputs(self._problem)
        with torch.inference_mode():
            if llama is None:
                self._subject = make_subject(self._problem, workload, hidden_size, seed, max_check_gflop)
            else:
                self._subject = make_generate_subject(self._problem, llama, seed)
        return {
            "error_budget": self._subject.error_budget,
            "quantisation_error": self._subject.quantisation_error,
            "num_checked_queries": self._subject.num_checked_queries,
            "num_checked_heads": self._subject.num_checked_heads,
            "timing_method": self._clock.method,
            "num_threads": torch.get_num_threads() if self._problem.device == "cpu" else None,
        }

    def prepare(self, arm: str, impl: str) -> dict[str, Any]:
        """Set an arm up, and check two outputs on different queries against the reference."""
        assert self._problem is not None and self._subject is not None
        implementation = get_impl(impl)
        if reasons := self._subject.unsupported_reasons(implementation):
            raise UnsupportedProblem("; ".join(reasons))
        timed_call, promised = self._subject.timed_call(implementation), promised_operators(implementation)
        memory = SetUpMemory(self._problem.device, self._clock.synchronize)
        with self._calling(), self._guarding_inputs():
            with memory.preparing():
                started = time.perf_counter()
                prepared = self._subject.prepare(implementation)
                self._clock.synchronize()
                prepare_ms = (time.perf_counter() - started) * 1e3
            self._subject.write_queries(0)
            output, first_call_ms = memory.of_call(prepared)
            first = self._require_correct(output, variant=0, when="first call")
            self._subject.write_queries(1)
            output, _ = memory.of_call(prepared)
            second = self._require_correct(output, variant=1, when="second call, on other queries")
            del output
            outside_torch = self._bytes_outside_torch(memory, implementation, prepared)
            own_fields = self._subject.own_fields(prepared)
        is_unseen = _allocates_outside_torch(implementation)
        self._arms[arm] = PreparedArm(prepared, memory.kept_bytes, promised, is_unseen)
        return {
            "prepare_ms": prepare_ms,
            "first_call_ms": first_call_ms,
            "compile_ms": prepared.compile_ms,
            "autotune_ms": prepared.autotune_ms,
            "plan_ms": prepared.plan_ms,
            "kernel_config": prepared.kernel_config,
            "kv_cache_bytes": prepared.kv_cache_bytes,
            "timed_call": None if timed_call is None else asdict(timed_call),
            "prepared_bytes": memory.kept_bytes,
            "prepared_unseen_bytes": outside_torch,
            **own_fields,
            **_worst(first, second),
        }

    def weigh(self, arm: str) -> dict[str, Any]:
        """Memory of one call, and what it ran: `BrokenPromise` when that is not what the name stands for."""
        assert self._problem is not None
        assert self._subject is not None
        with self._calling():
            with counting_allocated(self._problem.device):  # the profiler knows no other memory's size
                self._subject.get_ready_to_weigh()
            weight = weigh_call(self._arms[arm].call, self._problem.device)
        promised = self._arms[arm].promised_operators
        if promised and not any(name.startswith(promised) for name in weight.operators):
            raise BrokenPromise(f"promised {' or '.join(promised)}, ran {', '.join(weight.kernels)}")
        unseen = {"peak_workspace_bytes": None} if self._arms[arm].allocates_outside_torch else {}
        return weight.record_fields() | unseen | {"unexplained_bytes": self._unexplained_bytes(weight)}

    def measure(self, arm: str, num_calls: int, is_cold: bool) -> dict[str, Any]:
        """Time some calls, each on queries other than the last one's, with or without flushing the cache."""
        prepared, clock = self._arms[arm].call, self._clock

        def before_each() -> None:
            self._rotate(arm)
            if is_cold:
                clock.flush()

        with self._calling():
            if not is_cold:
                prepared()  # other arms have used the cache since
            exposed_before = clock.num_exposed
            samples_ms = clock.time_calls(prepared, num_calls, before_each)
            return {"samples_ms": samples_ms, "num_exposed": clock.num_exposed - exposed_before}

    @contextmanager
    def calls(self, arm: str) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
        """For a stopwatch of the caller's: what comes before each call, untimed, and a call until it is done.

        Before each call the queries change, and the last-level cache is flushed.
        """
        prepared, clock = self._arms[arm].call, self._clock

        def before_each() -> None:
            self._rotate(arm)
            clock.flush()
            clock.synchronize()

        def call() -> None:
            prepared()
            clock.synchronize()

        with self._calling():
            yield before_each, call

    def verify(self, arm: str) -> dict[str, Any]:
        """Check once more, after timing, on queries that the arm has not met."""
        assert self._subject is not None
        with self._calling():
            self._subject.guard.restore_if_changed()  # by whichever arm: each answers for its call here
            with self._guarding_inputs():
                output = self._call(self._arms[arm].call, UNSEEN_VARIANT)
                return _worst(self._require_correct(output, UNSEEN_VARIANT, when="after timing"))

    def cross_check(self, arm: str) -> dict[str, Any]:
        """On CUDA: what calls take by other ways of timing, and whether they can be captured as a graph."""
        assert self._problem is not None and self._subject is not None
        subject, variants = self._subject, itertools.cycle(range(NUM_TIMED_VARIANTS))
        written = 0

        def rotate() -> None:
            nonlocal written
            written = next(variants)
            subject.write_queries(written)

        with self._calling():
            fields = cross_check_fields(
                self._arms[arm].call,
                rotate,
                self._clock.flush,
                lambda output: subject.check(output, written).is_correct,
                torch.device(self._problem.device),
            )
        self._is_spoilt |= not fields.pop("could_capture")
        return fields

    def run_for(self, arm: str, seconds: float) -> dict[str, Any]:
        """Call back to back for some seconds without flushing: for energy.

        New queries come once in so many calls that writing them draws nothing that counts.
        """
        prepared, num_calls = self._arms[arm].call, 0
        with self._calling():
            started = time.perf_counter()
            while time.perf_counter() - started < seconds:
                if num_calls % _MOST_CALLS_IN_FLIGHT == 0:
                    self._clock.synchronize()
                    self._rotate(arm)
                prepared()
                num_calls += 1
            self._clock.synchronize()
            return {"num_calls": num_calls, "seconds": time.perf_counter() - started}

    def drop(self, arm: str) -> None:
        """Free what an arm holds."""
        self._arms.pop(arm, None)

    def close_case(self) -> dict[str, Any]:
        """Free everything. `is_spoilt`: whether another process should measure the next case."""
        is_spoilt, self._is_spoilt = self._is_spoilt, False
        self._arms.clear()
        self._problem = self._subject = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return {"is_spoilt": is_spoilt}

    @property
    def _clock(self) -> Clock:
        """The clock of the case's device; what it flushes the cache with is kept from case to case."""
        assert self._problem is not None
        device = self._problem.device
        if device not in self._clocks:
            self._clocks[device] = make_clock(device)
        return self._clocks[device]

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """The grad mode that the case's subject is called in; `BrokenPromise` when it is left changed."""
        assert self._subject is not None
        with self._subject.calling_mode():
            before = _grad_modes()
            yield
            if _grad_modes() != before:
                raise BrokenPromise("it changed the grad mode, which others share, and left it so")

    def _unexplained_bytes(self, weight: Weight) -> int | None:
        """On a CPU: resident memory less inputs and what arms have prepared. On CUDA the parent knows."""
        assert self._problem is not None and self._subject is not None
        if weight.process_bytes is None:
            return None
        given = input_bytes(self._problem) + self._subject.weight_bytes
        return weight.process_bytes - given - sum(arm.kept_bytes for arm in self._arms.values())

    def _bytes_outside_torch(
        self, memory: SetUpMemory, implementation: AttentionImpl, prepared: PreparedAttention
    ) -> int | None:
        """What an arm keeps that no allocator of PyTorch's has; None where that may well be no cache."""
        if _allocates_outside_torch(implementation) or prepared.compile_ms is not None:
            return None
        return memory.unseen_bytes()

    def _rotate(self, arm: str) -> None:
        assert self._subject is not None
        self._arms[arm].num_calls += 1
        self._subject.write_fresh_queries(self._arms[arm].num_calls)

    @contextmanager
    def _guarding_inputs(self) -> Iterator[None]:
        """Restores keys and values that are written into; `BrokenPromise` when that happened."""
        assert self._subject is not None
        try:
            yield
        finally:
            was_changed = self._subject.guard.restore_if_changed()
        if was_changed:
            raise BrokenPromise("it wrote into the keys or values that it was given, which others read too")

    def _call(self, prepared: PreparedAttention, variant: int) -> object:
        assert self._subject is not None
        self._subject.write_queries(variant)
        return prepared()

    def _require_correct(self, output: object, variant: int, when: str) -> Check:
        assert self._subject is not None
        check = self._subject.check(output, variant)
        if not check.is_correct:
            raise IncorrectOutput(check, when)
        return check


def _make_current(device: torch.device) -> None:
    """Kernels that are launched without PyTorch, such as Triton's, go to the current GPU."""
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)


def _allocates_outside_torch(implementation: AttentionImpl) -> bool:
    return bool(getattr(implementation, "allocates_outside_torch", False))


def _grad_modes() -> tuple[bool, bool]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


def _worst(*checks: Check) -> dict[str, Any]:
    """The record fields of correct outputs' errors: the largest of each."""
    return {
        "max_error": max(check.max_error or 0.0 for check in checks),
        "error_ratio": max(check.error_ratio or 0.0 for check in checks),
    }
