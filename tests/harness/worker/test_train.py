from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_module

from gqabench import results
from gqabench.attention_impls import AttentionProblem
from gqabench.attention_impls.cost import model_flops, train_bytes
from gqabench.harness.cases.case import InvalidCase
from gqabench.harness.cases.keys import register_keys
from gqabench.harness.cases.plan import plan_case
from gqabench.harness.machine.host import HostDescription
from gqabench.harness.worker.subjects.train import checked_heads

PROBLEM = AttentionProblem(2, 256, 256, 8, 4, 64, "float32", "cpu")

MODULE = """
    import torch
    from gqabench.attention_impls import PreparedAttention, get_impl

    class Differentiable:
        name = "differentiable"
        has_backward = True
        def unsupported_reasons(self, problem):
            return []
        def prepare(self, problem, inputs):
            inner = get_impl("grouped_matmul").prepare(problem, self.changed(inputs))
            return PreparedAttention(inner.run, inner.kv_cache_bytes)
        def changed(self, inputs):
            return inputs

    class LosesTheGradientOfKeys(Differentiable):
        def prepare(self, problem, inputs):
            detached = type(inputs)(inputs.q, inputs.k.detach(), inputs.v)
            return get_impl("grouped_matmul").prepare(problem, detached)

    class HalvesTheGradientOfValues(Differentiable):
        def prepare(self, problem, inputs):
            prepared = get_impl("grouped_matmul").prepare
            def run():
                v = inputs.v * 0.5 + (inputs.v * 0.5).detach()
                return prepared(problem, type(inputs)(inputs.q, inputs.k, v))()
            return PreparedAttention(run, inputs.k.nbytes + inputs.v.nbytes)
"""


@pytest.fixture(scope="module")
def rows(gqabench_in: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("train")
    (folder / "own.py").write_text(textwrap.dedent(MODULE))
    own = ("Differentiable", "LosesTheGradientOfKeys", "HalvesTheGradientOfValues")
    impls = ["sdpa", "repeat_kv", "folded_sdpa", "reference", *(f"own.py:{name}" for name in own)]
    finished = gqabench_in(
        folder,
        "sweep", "workload=train", "model=gqa_8_2", "kv_len=96", "measure=smoke",
        f"impls=[{','.join(impls)}]",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return results.load(folder / "results" / "runs" / "latest").set_index("impl")


def test_forward_and_backward_are_timed_and_checked(rows: pd.DataFrame) -> None:
    for impl in ("sdpa", "repeat_kv", "own.py:Differentiable"):
        row = rows.loc[impl]
        assert row["outcome"] == "ok", row["reason"]
        assert row["latency_ms"] > 0
        assert 0 < row["error_ratio"] < 0.9
        assert any("ackward" in name for name in row["kernels"]), row["kernels"]
    problem = AttentionProblem(1, 96, 96, 8, 2, 64, "float32", "cpu")
    assert set(rows["model_flops"]) == {model_flops(problem) * 7 // 2}
    assert set(rows["model_bytes"]) == {train_bytes(problem)}


def test_what_has_no_backward_pass_is_unsupported(rows: pd.DataFrame) -> None:
    for impl in ("folded_sdpa", "reference"):
        assert rows.loc[impl, "outcome"] == "unsupported"
        assert "workload=train: this implementation declares no backward pass" in rows.loc[impl, "reason"]


def test_wrong_gradients_are_incorrect(rows: pd.DataFrame) -> None:
    halved = rows.loc["own.py:HalvesTheGradientOfValues"]
    assert halved["outcome"] == "incorrect"
    assert "dv" in halved["reason"]
    lost = rows.loc["own.py:LosesTheGradientOfKeys"]
    assert lost["outcome"] == "incorrect"
    assert "there is no dk" in lost["reason"]


def test_training_bytes_by_hand() -> None:
    # q, its gradient, the output and its gradient; k, v and their gradients; four bytes each.
    queries, keys = 2 * 8 * 256 * 64, 2 * 4 * 256 * 64
    assert train_bytes(PROBLEM) == 4 * (4 * queries + 4 * keys)


@pytest.mark.parametrize(
    ("gflop", "expected"), [(1e9, 8), (0.0, 2)], ids=["all where affordable", "at least two"]
)
def test_heads_are_sampled_where_all_would_cost_too_much(gflop: float, expected: int) -> None:
    heads = checked_heads(PROBLEM, seed=1, max_check_gflop=gflop)
    assert len(set(heads)) == len(heads) == expected
    assert heads[-1] == (1, 3)
    assert heads == checked_heads(PROBLEM, seed=1, max_check_gflop=gflop)


def test_a_single_head_is_checked() -> None:
    only = AttentionProblem(1, 8, 8, 4, 1, 64, "float32", "cpu")
    assert checked_heads(only, seed=0, max_check_gflop=0.0) == [(0, 0)]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("kv_dtype=int8", "kv_dtype=int8: workload=train keeps no cache"),
        ("q_len=16", "q_len=16: workload=train"),
    ],
)
def test_what_does_not_go_with_training_is_no_case(host: HostDescription, override: str, said: str) -> None:
    register_keys()
    overrides = ["workload=train", "model=gqa_8_2", "kv_len=64", "impls=[sdpa]", override]
    with initialize_config_module("gqabench.conf", version_base="1.3"):
        case = plan_case(compose("sweep", overrides=overrides), {"current": host})
    assert isinstance(case, InvalidCase)
    assert said in case.reason
