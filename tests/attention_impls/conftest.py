"""Problems for the tests: a small one to vary, and a strategy over all of them; and what a call ran.

`st.from_type(AttentionProblem)` draws small problems on the CPU from the whole space that is computed here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from gqabench.attention_impls import AttentionProblem

settings.register_profile("attention_impls", deadline=None, max_examples=50)
settings.load_profile("attention_impls")


@st.composite
def _problems(draw: st.DrawFn) -> AttentionProblem:
    batch_size = draw(st.integers(1, 3))
    kv_len = draw(st.integers(1, 40))
    num_kv_heads = draw(st.integers(1, 3))
    lengths = st.lists(st.integers(1, kv_len), min_size=batch_size, max_size=batch_size).map(tuple)
    return AttentionProblem(
        batch_size=batch_size,
        q_len=draw(st.one_of(st.just(1), st.integers(1, kv_len))),
        kv_len=kv_len,
        num_q_heads=num_kv_heads * draw(st.integers(1, 4)),
        num_kv_heads=num_kv_heads,
        head_dim=draw(st.sampled_from([4, 7, 16, 24])),
        dtype=draw(st.sampled_from(["float32", "float16", "bfloat16"])),
        device="cpu",
        causal=draw(st.booleans()),
        window=draw(st.none() | st.integers(1, kv_len + 2)),
        softmax_scale=draw(st.none() | st.floats(0.05, 1.0)),
        logits_soft_cap=draw(st.none() | st.floats(0.5, 50.0)),
        kv_lens=draw(st.none() | lengths),
    )


st.register_type_strategy(AttentionProblem, _problems())


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """The problems are too small for threads, which would wait for each other where tests run in parallel."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def make_problem() -> Callable[..., AttentionProblem]:
    """A small valid problem, with the given fields instead of its own."""

    def make(**fields: Any) -> AttentionProblem:
        defaults = {
            "batch_size": 2, "q_len": 1, "kv_len": 8, "num_q_heads": 4, "num_kv_heads": 2, "head_dim": 16,
            "dtype": "float32", "device": "cpu",
        }  # fmt: skip
        return AttentionProblem(**defaults | fields)

    return make


@dataclass(frozen=True)
class Profile:
    """What one call did on the CPU."""

    operators: list[str]
    peak_bytes: int
    """Highest sum of what was allocated and not yet freed."""


@pytest.fixture
def profile_call() -> Callable[[Callable[[], torch.Tensor]], Profile]:
    """Runs a call under the profiler."""

    def run(call: Callable[[], torch.Tensor]) -> Profile:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
                call()
        events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
        current = peak = 0
        for event in events:
            if event.name() == "[memory]":
                current += event.nbytes()
                peak = max(peak, current)
        return Profile([event.name() for event in events if event.name() != "[memory]"], peak)

    return run
