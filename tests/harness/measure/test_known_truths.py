"""Implementations whose time and memory are known beforehand: the harness must read what is true."""

from __future__ import annotations

import statistics
import textwrap
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from gqabench import results

BUSY_MS = 5.0
SCRATCH_BYTES = 12_345_678
KEPT_BYTES = 76_543_210
WARM_PENALTY_MS = 4.0

MODULE = f"""
    import time
    import numpy
    import torch
    from gqabench.attention_impls import PreparedAttention, get_impl

    def busy_wait(milliseconds):
        end = time.perf_counter() + milliseconds / 1e3
        while time.perf_counter() < end:
            pass

    class Plain:
        name = "plain"
        def unsupported_reasons(self, problem):
            return []
        def prepare(self, problem, inputs):
            self.inner = get_impl("sdpa_flash").prepare(problem, inputs)
            self.last_call = 0.0
            return PreparedAttention(self.run, self.inner.kv_cache_bytes)
        def run(self):
            return self.inner()

    class TakesAKnownTime(Plain):
        def run(self):
            end = time.perf_counter() + {BUSY_MS} / 1e3
            output = self.inner()
            while time.perf_counter() < end:
                pass
            return output

    class AllocatesAKnownScratch(Plain):
        def run(self):
            scratch = torch.empty({SCRATCH_BYTES}, dtype=torch.uint8)
            del scratch
            return self.inner()

    class HasScratchOutsideTorch(Plain):
        def run(self):
            numpy.ones({SCRATCH_BYTES}, dtype=numpy.uint8)
            return self.inner()

    class KeepsACopyOfTheCache(Plain):
        def prepare(self, problem, inputs):
            self.cache = torch.stack([inputs.k, inputs.v]).to(torch.float64)
            prepared = super().prepare(problem, inputs)
            return PreparedAttention(prepared.run, self.cache.nbytes)

    class StatesLessThanItHolds(Plain):
        def prepare(self, problem, inputs):
            prepared = super().prepare(problem, inputs)
            return PreparedAttention(prepared.run, prepared.kv_cache_bytes // 2)

    class ExpandsTheCacheBeforehand(Plain):
        def prepare(self, problem, inputs):
            self.cache = [x.repeat_interleave(problem.group_size, dim=1) for x in (inputs.k, inputs.v)]
            return super().prepare(problem, inputs)

    class ExpandsTheCacheInItsFirstCall(Plain):
        cache = None
        def prepare(self, problem, inputs):
            self.problem, self.inputs = problem, inputs
            return super().prepare(problem, inputs)
        def run(self):
            if self.cache is None:
                keys_and_values, times = (self.inputs.k, self.inputs.v), self.problem.group_size
                self.cache = [x.repeat_interleave(times, dim=1) for x in keys_and_values]
            return self.inner()

    class KeepsMemoryOutsideTorch(Plain):
        def prepare(self, problem, inputs):
            self.kept = numpy.ones({KEPT_BYTES}, dtype=numpy.uint8)
            return super().prepare(problem, inputs)

    class RemembersOutputsByTheirQueries(Plain):
        def prepare(self, problem, inputs):
            self.inputs, self.known = inputs, {{}}
            return super().prepare(problem, inputs)
        def run(self):
            key = bytes(self.inputs.q.view(-1)[:2].numpy())
            if key not in self.known:
                busy_wait({BUSY_MS})
                self.known[key] = self.inner().clone()
            return self.known[key]

    class IsSlowerWhenWarm(Plain):
        # Between cold calls a flush takes more than half a millisecond; warm ones follow at once.
        def run(self):
            if time.perf_counter() - self.last_call < 0.5e-3:
                busy_wait({WARM_PENALTY_MS})
            output = self.inner()
            self.last_call = time.perf_counter()
            return output
"""


Sweep = Callable[..., pd.DataFrame]


@pytest.fixture(scope="module")
def sweep(gqabench_in: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Records of a sweep of implementations of the module above, by their names."""

    def measure(*names: str) -> pd.DataFrame:
        folder = tmp_path_factory.mktemp("truths")
        (folder / "known.py").write_text(textwrap.dedent(MODULE))
        finished = gqabench_in(
            folder,
            "sweep", "measure=smoke", "measure.caches=[cold,warm]", "measure.seconds_per_arm=0.2",
            "model=gqa_8_2", "kv_len=2048", "impls=[" + ",".join(f"known.py:{name}" for name in names) + "]",
        )  # fmt: skip
        assert finished.returncode == 0, finished.stderr
        frame = results.load(folder / "results" / "runs" / "latest").set_index("impl")
        assert set(frame["outcome"]) == {"ok"}, list(frame["reason"])
        return frame.rename(index=lambda name: name.removeprefix("known.py:"))

    return measure


@pytest.fixture(scope="module")
def rows(sweep: Sweep) -> pd.DataFrame:
    return sweep(
        "Plain", "AllocatesAKnownScratch", "HasScratchOutsideTorch", "KeepsACopyOfTheCache",
        "StatesLessThanItHolds", "ExpandsTheCacheBeforehand", "ExpandsTheCacheInItsFirstCall",
        "KeepsMemoryOutsideTorch", "RemembersOutputsByTheirQueries", "IsSlowerWhenWarm",
    )  # fmt: skip


def noise_ms() -> float:
    """How much too long this machine makes a busy wait of the same length, right now (upper quartile)."""
    excess = []
    for _ in range(40):
        started = time.perf_counter()
        while (now := time.perf_counter()) < started + BUSY_MS / 1e3:
            pass
        excess.append((now - started) * 1e3 - BUSY_MS)
    return statistics.quantiles(excess, n=4)[2]


@pytest.mark.alone
def test_a_known_time_is_read_within_one_percent_and_the_machines_own_noise(sweep: Sweep) -> None:
    latency_ms = sweep("TakesAKnownTime").loc["TakesAKnownTime", "latency_ms"]
    assert BUSY_MS <= latency_ms <= BUSY_MS * 1.01 + noise_ms()


def test_a_known_scratch_is_read_to_the_byte(rows: pd.DataFrame) -> None:
    plain = rows.loc["Plain", "peak_workspace_bytes"]
    assert rows.loc["AllocatesAKnownScratch", "peak_workspace_bytes"] == max(SCRATCH_BYTES, plain)
    assert plain < SCRATCH_BYTES


def test_scratch_outside_torch_is_seen_by_what_the_process_grows(rows: pd.DataFrame) -> None:
    unseen = rows["unseen_workspace_bytes"]
    assert SCRATCH_BYTES - 2**20 <= unseen["HasScratchOutsideTorch"] <= SCRATCH_BYTES + 2**20
    assert (unseen.drop("HasScratchOutsideTorch") == 0).all()
    is_flagged = rows["flags"].map(lambda flags: "workspace_unseen" in flags)
    assert list(is_flagged[is_flagged].index) == ["HasScratchOutsideTorch"]


def test_what_prepare_keeps_is_read_to_the_byte(rows: pd.DataFrame) -> None:
    given = rows.loc["Plain", "kv_cache_bytes"]
    assert rows.loc["Plain", "prepared_bytes"] == 0
    assert rows.loc["KeepsACopyOfTheCache", "prepared_bytes"] == 2 * given  # float32 as float64
    assert rows.loc["KeepsACopyOfTheCache", "kv_cache_bytes"] == 2 * given


def test_cache_bytes_that_nobody_saw_are_flagged(rows: pd.DataFrame) -> None:
    is_flagged = rows["flags"].map(lambda flags: "cache_unseen" in flags)
    assert list(is_flagged[is_flagged].index) == ["StatesLessThanItHolds"]


def test_a_cache_that_was_expanded_and_kept_is_flagged(rows: pd.DataFrame) -> None:
    is_flagged = rows["flags"].map(lambda flags: "cache_understated" in flags)
    assert list(is_flagged[is_flagged].index) == [
        "ExpandsTheCacheBeforehand",
        "ExpandsTheCacheInItsFirstCall",
        "KeepsMemoryOutsideTorch",
    ]
    expanded = rows.loc[["ExpandsTheCacheBeforehand", "ExpandsTheCacheInItsFirstCall"], "prepared_bytes"]
    assert list(expanded) == [4 * rows.loc["Plain", "kv_cache_bytes"]] * 2  # four query heads a KV head


def test_what_is_kept_outside_torch_is_seen_by_what_the_process_grows(rows: pd.DataFrame) -> None:
    unseen = rows["prepared_unseen_bytes"].dropna()
    assert KEPT_BYTES - 2**20 <= unseen["KeepsMemoryOutsideTorch"] <= KEPT_BYTES + 2**20
    assert (unseen.drop("KeepsMemoryOutsideTorch") == 0).all()
    assert len(unseen) >= len(rows) - 1  # modules are imported for the first arm at most


def test_outputs_that_are_remembered_by_their_queries_are_not_found_again(rows: pd.DataFrame) -> None:
    assert rows.loc["RemembersOutputsByTheirQueries", "latency_ms"] >= BUSY_MS


def test_what_is_slower_when_warm_is_told_apart(rows: pd.DataFrame) -> None:
    row = rows.loc["IsSlowerWhenWarm"]
    assert row["warm_latency_ms"] >= WARM_PENALTY_MS
    assert row["latency_ms"] < WARM_PENALTY_MS
    assert row["cache_state"] == "cold"
    assert rows.loc["Plain", "warm_latency_ms"] < WARM_PENALTY_MS
