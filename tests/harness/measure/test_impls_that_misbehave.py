"""Implementations from outside, each wrong in one way: each becomes a row, and harms no other."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from gqabench import results

MODULE = """
    import os, signal, threading, time
    import torch
    from gqabench.attention_impls import PreparedAttention, get_impl

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

    class ExitsInPrepare(Good):
        def prepare(self, problem, inputs):
            raise SystemExit(3)

    class IsInterruptedInPrepare(Good):
        def prepare(self, problem, inputs):
            raise KeyboardInterrupt

    class HangsWhileTimed(Good):
        def run(self):
            if self.num_calls > 4:
                time.sleep(1000)
            return super().run()

    class ReadsStandardInput(Good):
        def run(self):
            return input("continue? ")

    class GivesItsReasonAsText(Good):
        def unsupported_reasons(self, problem):
            return "no such head_dim"

    class GivesNoReasons(Good):
        def unsupported_reasons(self, problem):
            return None

    class PreparesNothing(Good):
        def prepare(self, problem, inputs):
            pass

    class PreparesAFunction(Good):
        def prepare(self, problem, inputs):
            return super().prepare(problem, inputs).run

    class PreparesAnotherClass(Good):
        def prepare(self, problem, inputs):
            prepared = super().prepare(problem, inputs)
            return type("Prepared", (), {"__call__": lambda _: prepared(), "kv_cache_bytes": 1})()

    class HasANegativeCache(Good):
        def prepare(self, problem, inputs):
            return PreparedAttention(super().prepare(problem, inputs).run, -1)

    class HasMoreBytesThanAColumnHolds(Good):
        def prepare(self, problem, inputs):
            return PreparedAttention(super().prepare(problem, inputs).run, 2**70)

    class HasATextForACache(Good):
        def prepare(self, problem, inputs):
            return PreparedAttention(super().prepare(problem, inputs).run, "1 MiB")

    class CompilesForNaN(Good):
        def prepare(self, problem, inputs):
            return PreparedAttention(super().prepare(problem, inputs).run, 1, compile_ms=float("nan"))

    class PromisesAText(Good):
        promised_operators = "aten::"

    class GivesAnotherDtype(Good):
        def run(self):
            return super().run().double()

    class Changes(Good):
        def prepare(self, problem, inputs):
            self.change()
            return super().prepare(problem, inputs)

    class SetsNumThreads(Changes):
        def change(self):
            torch.set_num_threads(torch.get_num_threads() + 1)
            torch.set_default_dtype(torch.float64)

    class SetsGradMode(Changes):
        def change(self):
            torch.set_grad_enabled(not torch.is_grad_enabled())

    class SetsNumThreadsWhenCalled(Good):
        def run(self):
            if self.num_calls == 4:
                torch.set_num_threads(torch.get_num_threads() + 1)
            return super().run()

    class LeavesAThreadBusy(Changes):
        def change(self):
            threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()

    class LeavesAThreadAsleep(Changes):
        def change(self):
            threading.Thread(target=lambda: time.sleep(1000), daemon=True).start()

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
    "Hangs": ("timeout", "no answer within 3 s"),
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
    "ExitsInPrepare": ("error", "SystemExit: 3"),
    "IsInterruptedInPrepare": ("error", "KeyboardInterrupt"),
    "HangsWhileTimed": ("timeout", "no answer within 3 s"),
    "ReadsStandardInput": ("error", "EOFError"),
    "GivesItsReasonAsText": ("error", "unsupported_reasons returned str 'no such head_dim', must"),
    "GivesNoReasons": ("error", "unsupported_reasons returned NoneType, must return a list of str"),
    "PreparesNothing": ("error", "prepare returned NoneType, must return a PreparedAttention"),
    "PreparesAFunction": ("error", "prepare returned method without kv_cache_bytes"),
    "PreparesAnotherClass": ("ok", None),
    "HasANegativeCache": ("error", "kv_cache_bytes=-1: must be a number of bytes"),
    "HasMoreBytesThanAColumnHolds": ("error", "must be a number of bytes, from 0 to 2^63"),
    "HasATextForACache": ("error", "kv_cache_bytes is str '1 MiB', must be int"),
    "CompilesForNaN": ("error", "compile_ms=nan: must be finite"),
    "PromisesAText": ("error", "promised_operators is str 'aten::', must be a tuple of str"),
    "GivesAnotherDtype": ("incorrect", "torch.float64, expected [2, 8, 1, 64] torch.float32"),
    "SetsNumThreads": (
        "error",
        "it changed state that all implementations share: num_threads from 1 to 2, "
        "default dtype from torch.float32 to torch.float64",
    ),
    "SetsGradMode": ("incorrect", "it changed the grad mode"),
    "SetsNumThreadsWhenCalled": ("error", "num_threads from 1 to 2"),
    "LeavesAThreadBusy": ("error", "the number of busy threads by 1"),
    "LeavesAThreadAsleep": ("ok", None),
}

BROKEN_FILES = {
    "syntax_error.py": ("def run(:", "error", "SyntaxError"),
    "import_error.py": ("import a_package_that_nobody_has", "error", "a_package_that_nobody_has"),
    "exits.py": ("raise SystemExit('wants a GPU')", "error", "SystemExit: wants a GPU"),
    "is_interrupted.py": ("raise KeyboardInterrupt", "error", "KeyboardInterrupt"),
    "dies.py": ("import os; os._exit(5)", "crash", "exited with code 5"),
    "sets_threads.py": ("import torch; torch.set_num_threads(3)", "error", "num_threads from 1 to 3"),
}
"""Source, outcome and reason of files that cannot be imported as they should.

One that hangs is as `Hangs`: the worker imports it when it is to prepare it.
"""

ENDS_ITS_WORKER = re.compile(r"Segfaults|Exits|Hangs|Sets|Busy|dies|sets_threads")


def ends_its_worker(name: str) -> bool:
    """Return whether an arm ends its worker or poisons it."""
    return ENDS_ITS_WORKER.search(name) is not None


@pytest.fixture(scope="module")
def rows(gqabench_in: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("misbehaving")
    (folder / "outside.py").write_text(textwrap.dedent(MODULE))
    for name, (source, _, _) in BROKEN_FILES.items():
        (folder / name).write_text(f"{source}\nclass Broken:\n    pass\n")
    names = [f"{name}:Broken" for name in BROKEN_FILES] + [f"outside.py:{name}" for name in EXPECTED]
    # After each loss of a worker all that was prepared is prepared again: those that end theirs come first.
    impls = ",".join(sorted(names, key=lambda name: not ends_its_worker(name)))
    finished = gqabench_in(
        folder,
        "sweep", "measure=smoke", "model=gqa_8_2", "kv_len=96", "batch_size=2", "measure.timeout_s=3",
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


@pytest.mark.parametrize("name", list(BROKEN_FILES))
def test_a_file_that_cannot_be_imported_is_a_row(rows: pd.DataFrame, name: str) -> None:
    _, outcome, reason = BROKEN_FILES[name]
    row = rows.loc[f"{name}:Broken"]
    assert (row["outcome"], reason in row["reason"]) == (outcome, True), row["reason"]


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
    assert len(rows) == len(EXPECTED) + len(BROKEN_FILES) + 2
