from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gqabench.attention_impls import AttentionProblem
from gqabench.harness.worker.memory.call_profile import peak_of, profile_call
from gqabench.harness.worker.memory.memory_limit import (
    NotEnoughMemory,
    available_bytes,
    input_bytes,
    require_memory_for_inputs,
)
from gqabench.harness.worker.subjects.subject import select_query_rows
from gqabench.harness.worker.subjects.table import make_subject
from gqabench.harness.worker.timing.cache_flush import CacheFlush, last_level_cache_bytes
from gqabench.harness.worker.timing.clock import CpuClock

PREFILL = AttentionProblem(
    batch_size=1,
    q_len=4096,
    kv_len=4096,
    num_q_heads=8,
    num_kv_heads=2,
    head_dim=64,
    dtype="float32",
    device="cpu",
)
DECODE = AttentionProblem(
    batch_size=2,
    q_len=1,
    kv_len=64,
    num_q_heads=8,
    num_kv_heads=2,
    head_dim=64,
    dtype="float32",
    device="cpu",
)


@pytest.mark.parametrize(
    ("events", "peak"),
    [([], 0), ([5], 5), ([5, -5, 3], 5), ([5, 3, -5, 4], 8), ([-7, 5], 0)],
    ids=["none", "one", "freed", "overlapping", "freeing what was there"],
)
def test_peak_of_hand_worked_allocations(events: list[int], peak: int) -> None:
    assert peak_of(events) == peak


def test_a_known_workspace_is_read_to_the_byte() -> None:
    def call() -> torch.Tensor:
        scratch = torch.empty(12_345_678, dtype=torch.uint8)
        small = torch.empty(1000, dtype=torch.uint8)
        del scratch
        second = torch.empty(5_000_000, dtype=torch.uint8)
        del second
        return small

    assert profile_call(call, "cpu").memory.peak_workspace_bytes == 12_345_678 + 1000


def test_inputs_that_cannot_fit_are_refused_before_they_are_made() -> None:
    assert input_bytes(DECODE) == 2 * (8 * 1 + 2 * 2 * 64) * 64 * 4
    require_memory_for_inputs(DECODE)
    available = available_bytes()
    assert available is not None
    too_long = replace(DECODE, kv_len=available // (2 * 2 * 2 * 64 * 4) + 1)
    with pytest.raises(NotEnoughMemory, match=r"the inputs need \d+\.\d GiB, \d+\.\d GiB are available"):
        require_memory_for_inputs(too_long)
    require_memory_for_inputs(replace(too_long, device="cuda"))


def test_the_flush_is_larger_than_the_last_level_cache() -> None:
    assert CacheFlush("cpu").buffer.nbytes >= 2 * last_level_cache_bytes("cpu")


def test_the_flush_reads_all_of_it() -> None:
    flush = CacheFlush("cpu")
    flush()
    assert flush._sum.item() == pytest.approx(flush.buffer.numel(), rel=1e-3)  # of ones


def test_calls_are_timed_one_by_one_after_their_preparation() -> None:
    events = []
    samples = CpuClock("cpu").time_calls(
        lambda: events.append("call"), 3, before_each=lambda: events.append("before")
    )
    assert events == ["before", "call"] * 3
    assert len(samples) == 3


def test_small_problems_are_checked_in_full() -> None:
    assert select_query_rows(DECODE, seed=0, max_check_gflop=1) is None


def test_of_large_problems_the_edges_and_a_sample_are_checked() -> None:
    rows = select_query_rows(PREFILL, seed=0, max_check_gflop=1)
    assert rows is not None
    assert 16 <= len(rows) < 1000
    assert rows[0] == 0
    assert rows[-1] == PREFILL.q_len - 1
    assert bool((rows.diff() > 0).all()), "ascending, none twice"
    again = select_query_rows(PREFILL, seed=0, max_check_gflop=1)
    assert again is not None
    assert rows.equal(again)


def test_a_subject_knows_a_right_output_from_wrong_ones() -> None:
    with torch.inference_mode():
        subject = make_subject(DECODE, "decode", 512, seed=0, max_check_gflop=1)
        subject.write_queries(1)
        from gqabench.attention_impls import get_impl

        output = subject.prepare(get_impl("repeat_kv"))()
        assert subject.check(output, variant=1).is_correct
        assert not subject.check(output, variant=0).is_correct, "the answer to other queries"
        assert "NaN" in str(subject.check(output * float("nan"), variant=1).complaint)
        assert "expected" in str(subject.check(output[:1], variant=1).complaint)
        assert "expected" in str(subject.check(output.double(), variant=1).complaint)
        assert "not a tensor" in str(subject.check(None, variant=1).complaint)


def test_fresh_queries_never_come_twice() -> None:
    with torch.inference_mode():
        subject = make_subject(DECODE, "decode", 512, seed=0, max_check_gflop=1)
        seen = set()
        for call in range(300):
            subject.write_fresh_queries(call)
            seen.add(bytes(subject.queries.view(-1)[:2].numpy()))
    assert len(seen) == 300


def test_the_flush_reads_over_all_caches_that_threads_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "gqabench.harness.worker.timing.cache_flush.all_last_level_caches_bytes", lambda cpus: 3 * 2**26
    )
    monkeypatch.setattr(
        "gqabench.harness.worker.timing.cache_flush.last_level_cache_bytes", lambda device: 2**26
    )
    assert CacheFlush("cpu").buffer.nbytes == 2 * 3 * 2**26
