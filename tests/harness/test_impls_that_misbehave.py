"""Implementations from outside, each wrong in one way: each becomes a row, and harms no other."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

import results

MODULE = """
    import os, signal, time
    import torch
    from attention_impls import PreparedAttention, get_impl

    class Good:
        name = "good"
        def unsupported_reasons(self, problem):
            return []
        def prepare(self, problem, inputs):
            self.problem, self.inputs = problem, inputs
            self.inner = get_impl("grouped_matmul").prepare(problem, inputs)
            self.num_calls = 0
            return PreparedAttention(self.run, self.inner.kv_cache_bytes)
        def run(self):
            self.num_calls += 1
            return self.inner()

    class Declines(Good):
        def unsupported_reasons(self, problem):
            return ["first reason", "second reason"]

    class Segfaults(Good):
        def prepare(self, problem, inputs):
            os.kill(os.getpid(), signal.SIGSEGV)

    class ExitsWhileTimed(Good):
        def run(self):
            if self.num_calls > 4:
                os._exit(3)
            return super().run()

    class Hangs(Good):
        def prepare(self, problem, inputs):
            time.sleep(1000)

    class GivesNaN(Good):
        def run(self):
            return super().run() * float("nan")

    class IsOnePercentOff(Good):
        def run(self):
            return super().run() * 1.01

    class KeepsItsFirstOutput(Good):
        def run(self):
            if not hasattr(self, "output"):
                self.output = super().run()
            return self.output

    class MapsHeadsWrongly(Good):
        def prepare(self, problem, inputs):
            super().prepare(problem, inputs)
            heads = torch.arange(problem.num_q_heads) % problem.num_kv_heads
            def run():
                logits = inputs.q @ inputs.k[:, heads].mT * problem.scale
                return logits.softmax(-1) @ inputs.v[:, heads]
            return PreparedAttention(run, 1)

    class IsWrongLater(Good):
        def run(self):
            return super().run() * (1 if self.num_calls < 5 else 2)

    class DropsABatchAxis(Good):
        def run(self):
            return super().run()[0]

    class ReturnsNothing(Good):
        def run(self):
            pass

    class Raises(Good):
        def prepare(self, problem, inputs):
            raise KeyError("no such kernel")

    class HasAnotherSignature(Good):
        def prepare(self):
            pass

    class WantsTooMuchMemory(Good):
        def run(self):
            torch.empty(2**50)

    class CannotBeMade(Good):
        def __init__(self):
            raise RuntimeError("no licence")

    class ScalesTheCacheInPlace(Good):
        def prepare(self, problem, inputs):
            inputs.k.mul_(problem.scale)
            def run():
                heads = torch.arange(problem.num_q_heads) // problem.group_size
                return (inputs.q @ inputs.k[:, heads].mT).softmax(-1) @ inputs.v[:, heads]
            return PreparedAttention(run, inputs.k.nbytes + inputs.v.nbytes)

    class WritesIntoTheCacheWhenCalled(Good):
        def run(self):
            output = super().run()
            self.inputs.v[..., 0, 0] += 1
            return output

    class ReplaysTwoOutputs(Good):
        def run(self):
            self.kept = getattr(self, "kept", [])
            if len(self.kept) < 3:
                self.kept.append(super().run())
                return self.kept[-1]
            self.kept[1:] = self.kept[:0:-1]
            return self.kept[1]

    class RunsAnotherKernel(Good):
        promised_operators = ("aten::_scaled_dot_product_flash",)

    class DeclaresNonsense(Good):
        timed_call = "nothing"

    class HasNoMembers:
        pass

    class PrintsALot(Good):
        def run(self):
            print("{} to standard output")
            return super().run()
"""

EXPECTED = {
    "Good": ("ok", None),
    "Declines": ("unsupported", "first reason; second reason"),
    "Segfaults": ("crash", "SIGSEGV"),
    "ExitsWhileTimed": ("crash", "exited with code 3"),
    "Hangs": ("timeout", "no answer within 8 s"),
    "GivesNaN": ("incorrect", "NaN or infinity"),
    "IsOnePercentOff": ("incorrect", "exceeds the budget"),
    "KeepsItsFirstOutput": ("incorrect", "second call, on other queries"),
    "MapsHeadsWrongly": ("incorrect", "exceeds the budget"),
    "IsWrongLater": ("incorrect", "after timing"),
    "DropsABatchAxis": ("incorrect", "expected [2, 8, 1, 64] torch.float32"),
    "ReturnsNothing": ("incorrect", "NoneType"),
    "Raises": ("error", "KeyError: 'no such kernel'"),
    "HasAnotherSignature": ("error", "TypeError"),
    "WantsTooMuchMemory": ("oom", "allocate"),
    "CannotBeMade": ("error", "no licence"),
    "DeclaresNonsense": ("error", "TypeError: timed_call is str"),
    "HasNoMembers": ("error", "has no name"),
    "ScalesTheCacheInPlace": ("incorrect", "wrote into the keys or values"),
    "WritesIntoTheCacheWhenCalled": ("incorrect", "second call"),  # wrong by its own writing
    "ReplaysTwoOutputs": ("incorrect", "after timing"),
    "RunsAnotherKernel": ("incorrect", "promised aten::_scaled_dot_product_flash, ran aten::"),
    "PrintsALot": ("ok", None),
    "IsNotThere": ("error", "IsNotThere"),
}


@pytest.fixture(scope="module")
def rows(gqabench_in: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("misbehaving")
    (folder / "outside.py").write_text(textwrap.dedent(MODULE))
    impls = ",".join(f"outside.py:{name}" for name in EXPECTED)
    finished = gqabench_in(
        folder,
        "sweep", "measure=smoke", "model=gqa_8_2", "kv_len=96", "batch_size=2", "measure.timeout_s=8",
        f"impls=[repeat_kv,{impls},sdpa]",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert "to standard output" not in finished.stdout
    return results.load(folder / "results" / "runs" / "latest").set_index("impl")


@pytest.mark.parametrize("name", list(EXPECTED))
def test_each_becomes_a_row_with_its_reason(rows: pd.DataFrame, name: str) -> None:
    outcome, reason = EXPECTED[name]
    row = rows.loc[f"outside.py:{name}"]
    assert row["outcome"] == outcome, row["reason"]
    if reason is None:
        assert row["reason"] is None
        assert row["latency_ms"] > 0
    else:
        assert reason in row["reason"]
        assert pd.isna(row["latency_ms"])
        assert row["samples_ms"] is None


@pytest.mark.parametrize("name", ["repeat_kv", "sdpa"])
def test_the_others_are_measured_all_the_same(rows: pd.DataFrame, name: str) -> None:
    assert rows.loc[name, "outcome"] == "ok"
    assert len(rows.loc[name, "samples_ms"]) >= 6


def test_a_wrong_output_says_how_wrong(rows: pd.DataFrame) -> None:
    row = rows.loc["outside.py:IsOnePercentOff"]
    assert row["max_error"] > row["error_budget"] > 0
    assert row["error_ratio"] > 1


def test_there_is_one_row_for_each_arm(rows: pd.DataFrame) -> None:
    assert rows.index.is_unique
    assert len(rows) == len(EXPECTED) + 2
