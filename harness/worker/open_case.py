"""A case that is open in the worker: its inputs, its arms, and what is asked of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

import torch

from gqabench.attention_impls import AttentionImpl, AttentionProblem, PreparedAttention, get_impl
from gqabench.attention_impls.plugins.promises import promised_operators
from gqabench.harness.worker.contract_checks import (
    calling,
    guarding_inputs,
    require_correct,
    require_promised,
)
from gqabench.harness.worker.memory.call_profile import profile_call
from gqabench.harness.worker.memory.huge_pages import use_huge_pages
from gqabench.harness.worker.memory.memory_limit import input_bytes
from gqabench.harness.worker.memory.profiler import counting_allocated
from gqabench.harness.worker.memory.set_up_memory import SetUpMemory
from gqabench.harness.worker.prepared_arm import PreparedArm
from gqabench.harness.worker.subjects.subject import (
    NUM_TIMED_VARIANTS,
    UNSEEN_VARIANT,
    Check,
    Subject,
    UnsupportedProblem,
)
from gqabench.harness.worker.timing.clock import Clock
from gqabench.harness.worker.timing.cross_check import cross_check
from gqabench.harness.worker.timing.threads import QuietSlice, TaskTable
from gqabench.harness.workers.replies import (
    CALLS_OF_LONG_SLICE,
    ArmPrepared,
    CallMemory,
    CallsMade,
    CallTimes,
    CaseOpened,
    CrossCheck,
    Nothing,
    OutputErrors,
)

_MOST_CALLS_IN_FLIGHT = 32
"""A GPU's queue takes a thousand launches or so before the host has to wait."""


_CALLS_UNTIL_WARM = 3


class OpenCase:
    """One problem with its answers, and the arms that are prepared for it, by name."""

    def __init__(
        self, problem: AttentionProblem, subject: Subject, clock: Clock, huge_pages: bool = True
    ) -> None:
        self.subject = subject
        self._problem = problem
        self._clock = clock
        self._has_huge_pages = huge_pages and problem.device == "cpu"
        self._arms: dict[str, PreparedArm] = {}
        self._tasks = TaskTable()
        self.is_spoilt = False
        """Whether something of this case would disturb the next one in this process"""

    def describe(self) -> CaseOpened:
        """Return what the outputs are checked against, and how calls are timed."""
        return CaseOpened(
            error_budget=self.subject.error_budget,
            quantisation_error=self.subject.quantisation_error,
            num_checked_queries=self.subject.num_checked_queries,
            num_checked_heads=self.subject.num_checked_heads,
            timing_method=self._clock.method,
            num_threads=torch.get_num_threads() if self._problem.device == "cpu" else None,
        )

    def prepare(self, arm: str, impl: str) -> ArmPrepared:
        """Set an arm up, and check two outputs on different queries against the reference.

        Raises `UnsupportedProblem`, `IncorrectOutput` or `BrokenPromise`.
        """
        implementation = get_impl(impl)
        if reasons := self.subject.unsupported_reasons(implementation):
            raise UnsupportedProblem("; ".join(reasons))
        timed_call, promised = self.subject.timed_call(implementation), promised_operators(implementation)
        memory = SetUpMemory(self._problem.device, self._clock.synchronize)
        with calling(self.subject), guarding_inputs(self.subject):
            with memory.preparing():
                started = time.perf_counter()
                call = self.subject.prepare(implementation)
                self._clock.synchronize()
                prepare_ms = (time.perf_counter() - started) * 1e3
            first, first_call_ms = self._first_call(memory, arm, call, variant=0, when="first call")
            second, _ = self._first_call(memory, arm, call, variant=1, when="second call, on other queries")
            unseen_bytes = _bytes_outside_torch(memory, implementation, call)
            prefill = self.subject.measure_prefill(call)
        self._arms[arm] = PreparedArm(
            call, memory.kept_bytes, promised, _allocates_outside_torch(implementation)
        )
        errors = _largest(first, second)
        # All of the process: some implementations read the inputs, others copies of their own.
        share = use_huge_pages(but_not=self._clock.flush_buffer) if self._has_huge_pages else None
        return ArmPrepared(
            prepare_ms=prepare_ms,
            first_call_ms=first_call_ms,
            compile_ms=call.compile_ms,
            autotune_ms=call.autotune_ms,
            plan_ms=call.plan_ms,
            kernel_config=call.kernel_config,
            kv_cache_bytes=call.kv_cache_bytes,
            timed_call=None if timed_call is None else asdict(timed_call),
            prepared_bytes=memory.kept_bytes,
            prepared_unseen_bytes=unseen_bytes,
            huge_page_share=share,
            prefill_ms=prefill.ms,
            prefill_samples_ms=prefill.samples_ms,
            prefill_peak_workspace_bytes=prefill.peak_workspace_bytes,
            max_error=errors.max_error,
            error_ratio=errors.error_ratio,
        )

    def measure_memory(self, arm: str) -> CallMemory:
        """Measure the memory of one call, and see what it runs.

        Raises `BrokenPromise` when that is not what the implementation's name stands for.
        """
        prepared = self._arms[arm]
        with calling(self.subject):
            with counting_allocated(self._problem.device):  # the profiler knows no other memory's size
                self.subject.get_ready_to_profile()
            profile = profile_call(prepared.call, self._problem.device)
        memory = profile.memory
        require_promised(prepared.promised_operators, profile.operators, memory.kernels)
        return replace(
            memory,
            peak_workspace_bytes=None if prepared.allocates_outside_torch else memory.peak_workspace_bytes,
            unexplained_bytes=self._unexplained_bytes(memory.process_bytes),
        )

    def measure(self, arm: str, num_calls: int, is_cold: bool) -> CallTimes:
        """Time some calls, each on queries other than the last one's, with or without flushing the cache.

        Calls that are not timed come first, where that leaves enough of the slice or caches are to be warm:
        the others' turns have left cold what a flush does not reach.
        """
        call, clock = self._arms[arm].call, self._clock
        quiet = QuietSlice(self._tasks, arm)

        def before_each() -> None:
            quiet.end_call()
            self._rotate(arm)
            if is_cold:
                clock.flush()
            if self._problem.device == "cpu":
                quiet.begin_call()

        with calling(self.subject):
            quiet.settle()
            for _ in range(_num_untimed(num_calls, is_cold)):
                self._rotate(arm)
                if is_cold:
                    clock.flush()
                call()
            exposed_before = clock.num_exposed
            samples_ms = clock.time_calls(call, num_calls, before_each)
            quiet.end_call()
        self._tasks.claim(arm)
        return CallTimes(
            samples_ms=samples_ms,
            num_exposed=clock.num_exposed - exposed_before,
            busy_cores=quiet.busy_cores,
        )

    @contextmanager
    def calls(self, arm: str) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
        """Yield, for a stopwatch of the caller's, what comes before each call, untimed, and a whole call.

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

        with calling(self.subject):
            yield before_each, call

    def verify(self, arm: str) -> OutputErrors:
        """Check once more, after timing, on queries that the arm has not met."""
        with calling(self.subject):
            self.subject.guard.restore_if_changed()  # by whichever arm: each answers for its call here
            with guarding_inputs(self.subject):
                self.subject.write_queries(UNSEEN_VARIANT)
                output = self._arms[arm].call()
                return _largest(require_correct(self.subject, output, UNSEEN_VARIANT, when="after timing"))

    def cross_check(self, arm: str) -> CrossCheck:
        """Time calls on CUDA in other ways, and see whether they can be captured as a graph."""
        variants = itertools.cycle(range(NUM_TIMED_VARIANTS))
        written = 0

        def rotate() -> None:
            nonlocal written
            written = next(variants)
            self.subject.write_queries(written)

        with calling(self.subject):
            checked, could_capture = cross_check(
                self._arms[arm].call,
                rotate,
                self._clock.flush,
                lambda output: self.subject.check(output, written).is_correct,
                torch.device(self._problem.device),
            )
        self.is_spoilt |= not could_capture
        return checked

    def run_for(self, arm: str, seconds: float) -> CallsMade:
        """Call back to back for some seconds without flushing: for energy.

        New queries come once in so many calls that writing them draws nothing that counts.
        """
        call, num_calls = self._arms[arm].call, 0
        with calling(self.subject):
            started = time.perf_counter()
            while time.perf_counter() - started < seconds:
                if num_calls % _MOST_CALLS_IN_FLIGHT == 0:
                    self._clock.synchronize()
                    self._rotate(arm)
                call()
                num_calls += 1
            self._clock.synchronize()
            return CallsMade(num_calls=num_calls, seconds=time.perf_counter() - started)

    def drop(self, arm: str) -> Nothing:
        """Free what an arm holds."""
        self._arms.pop(arm, None)
        return Nothing()

    def _first_call(
        self, memory: SetUpMemory, arm: str, call: PreparedAttention, variant: int, when: str
    ) -> tuple[Check, float]:
        """Check the output of a call whose memory counts; also return its milliseconds."""
        self.subject.write_queries(variant)
        with self._tasks.using(arm):
            output, elapsed_ms = memory.of_call(call)
        return require_correct(self.subject, output, variant, when), elapsed_ms

    def _unexplained_bytes(self, process_bytes: int | None) -> int | None:
        """On a CPU: resident memory less inputs and what arms have prepared. On CUDA the parent knows."""
        if process_bytes is None:
            return None
        given = input_bytes(self._problem) + self.subject.weight_bytes
        return process_bytes - given - sum(arm.kept_bytes for arm in self._arms.values())

    def _rotate(self, arm: str) -> None:
        self._arms[arm].num_calls += 1
        self.subject.write_fresh_queries(self._arms[arm].num_calls)


def _num_untimed(num_calls: int, is_cold: bool) -> int:
    """Return how many calls of a slice come before the timed ones.

    Warm inputs are in the last-level cache, and their latency steady, from the fourth call on.
    """
    if num_calls < CALLS_OF_LONG_SLICE:
        return int(not is_cold)
    return 1 if is_cold else _CALLS_UNTIL_WARM


def _allocates_outside_torch(implementation: AttentionImpl) -> bool:
    return bool(getattr(implementation, "allocates_outside_torch", False))


def _bytes_outside_torch(
    memory: SetUpMemory, implementation: AttentionImpl, call: PreparedAttention
) -> int | None:
    """Return the bytes that an arm keeps outside PyTorch's allocators; None where that may be no cache."""
    if _allocates_outside_torch(implementation) or call.compile_ms is not None:
        return None
    return memory.unseen_bytes()


def _largest(*checks: Check) -> OutputErrors:
    """Return the largest errors of correct outputs."""
    return OutputErrors(
        max_error=max(check.max_error or 0.0 for check in checks),
        error_ratio=max(check.error_ratio or 0.0 for check in checks),
    )
