from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module

from gqabench import results
from gqabench.attention_impls import AttentionProblem, get_impl
from gqabench.attention_impls.cost import kv_cache_bytes
from gqabench.attention_impls.models.llama.shape import LlamaShape
from gqabench.harness.cases.case import Case, InvalidCase
from gqabench.harness.cases.keys import register_keys
from gqabench.harness.cases.plan import plan_case
from gqabench.harness.errors import UsageError
from gqabench.harness.machine.host import HostDescription
from gqabench.harness.worker.session import Session
from gqabench.harness.worker.subjects.subject import UnsupportedProblem
from gqabench.harness.worker.subjects.table import make_generate_subject

pytest.importorskip("transformers")

PROBLEM = AttentionProblem(2, 1, 32, 8, 2, 64, "float32", "cpu")
SMALL = AttentionProblem(2, 1, 9, 4, 2, 16, "float32", "cpu")
SHAPE = {"num_layers": 2, "hidden_size": 64, "intermediate_size": 96, "hf_cache": "dynamic"}

MODULE = """
    from gqabench.attention_impls import PreparedAttention, get_impl

    class ShiftsValues:
        name = "transformers_sdpa"
        def unsupported_reasons(self, problem):
            return []
        def prepare(self, problem, inputs):
            v = inputs.v.roll(1, dims=2) if problem.q_len == 1 else inputs.v
            return get_impl("sdpa").prepare(problem, type(inputs)(inputs.q, inputs.k, v))
"""


@pytest.fixture(scope="module")
def rows(gqabench_in: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("generate")
    (folder / "own.py").write_text(textwrap.dedent(MODULE))
    impls = "sdpa,transformers_eager,folded_sdpa,sdpa+folded_sdpa,own.py:ShiftsValues"
    finished = gqabench_in(
        folder,
        "sweep", "-m", "workload=generate", "model=gqa_8_2", "kv_len=32", "batch_size=2", "model_layers=1",
        "hf_cache=dynamic,static", "measure=smoke", "measure.min_rounds=2", f"impls=[{impls}]",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return results.load(folder / "results" / "runs" / "latest").set_index(["hf_cache", "impl"])


@pytest.mark.parametrize("hf_cache", ["dynamic", "static"])
@pytest.mark.parametrize("impl", ["sdpa", "transformers_eager", "sdpa+folded_sdpa"])
def test_a_model_is_checked_timed_and_weighed(rows: pd.DataFrame, hf_cache: str, impl: str) -> None:
    row = rows.loc[(hf_cache, impl)]
    assert row["outcome"] == "ok", row["reason"]
    assert 0 < row["error_ratio"] < 0.9
    assert row["tokens_per_s"] == pytest.approx(2 / row["latency_ms"] * 1e3)
    assert len(row["prefill_samples_ms"]) == 3
    assert min(row["prefill_samples_ms"]) <= row["prefill_ms"] <= max(row["prefill_samples_ms"])
    assert row["kv_cache_bytes"] == row["kv_cache_bytes_model"] == 2 * 2 * 32 * 2 * 64 * 4
    assert row["prefill_peak_workspace_bytes"] > row["kv_cache_bytes"]
    assert (row["model_layers"], row["num_layers"], row["intermediate_size"]) == (1, 6, 2048)


def test_a_step_copies_a_dynamic_cache_one_tensor_at_a_time_and_a_static_one_not_at_all() -> None:
    problem = replace(SMALL, kv_len=257)
    workspace = {}
    session = Session()
    for hf_cache in ("dynamic", "static"):
        session.open_case(asdict(problem), "generate", 64, 0, 1.0, SHAPE | {"hf_cache": hf_cache})
        assert session.case.prepare("arm", "sdpa").kv_cache_bytes == kv_cache_bytes(problem)
        workspace[hf_cache] = session.case.measure_memory("arm").peak_workspace_bytes
        assert session.case.verify("arm").error_ratio < 1
    one_tensor = kv_cache_bytes(problem) // 2
    assert workspace["static"] < one_tensor / 2
    assert one_tensor <= workspace["dynamic"] < one_tensor + workspace["static"]


def test_a_plug_in_that_is_wrong_in_a_model_is_incorrect(rows: pd.DataFrame) -> None:
    """Whatever it calls itself: only the library's own code runs under a stock name."""
    wrong = rows.xs("own.py:ShiftsValues", level="impl")
    assert set(wrong["outcome"]) == {"incorrect"}
    assert wrong["reason"].str.contains("the error exceeds the budget").all()


def test_what_cannot_prefill_is_unsupported(rows: pd.DataFrame) -> None:
    row = rows.loc[("static", "folded_sdpa")]
    assert row["outcome"] == "unsupported"
    assert row["reason"].startswith("prefill: q_len=31: ")


def test_the_reference_is_what_eager_computes_in_float32() -> None:
    """Two programs for one architecture. Float32 differs from float64 by some units of roundoff."""
    from gqabench.attention_impls.models.llama.model import logits_of, make_model
    from gqabench.attention_impls.models.llama.reference import step_references

    model = make_model(SMALL, LlamaShape(**SHAPE), seed=3)
    ids = torch.randint(1024, (2, 9), generator=torch.Generator().manual_seed(1))
    reference = step_references(SMALL, model, ids[:, :8], ids[None, :, 8])
    eager = logits_of(model, ids, None)
    torch.testing.assert_close(reference[0], eager.double(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("hf_cache", ["dynamic", "static"])
def test_every_call_has_the_same_context_and_new_tokens(dtype: str, hf_cache: str) -> None:
    problem = AttentionProblem(2, 1, 9, 4, 2, 16, dtype, "cpu")
    with torch.inference_mode():
        subject = make_generate_subject(problem, SHAPE | {"hf_cache": hf_cache}, seed=0)
        prepared = subject.prepare(get_impl("grouped_matmul"))
        outputs = []
        for variant in (0, 1, 2, 0):
            subject.write_queries(variant)
            subject.get_ready_to_profile()
            outputs.append(prepared())
            assert subject.check(outputs[-1], variant).is_correct
            assert not subject.check(outputs[-1], (variant + 1) % 3).is_correct
    assert torch.equal(outputs[0], outputs[-1])


def test_parameters_and_costs_by_hand() -> None:
    shape = LlamaShape(num_layers=3, hidden_size=512, intermediate_size=2048, hf_cache="static")
    matrices = 2 * 512 * 64 * (8 + 2) + 3 * 512 * 2048
    layers = 3 * (matrices + 2 * 512)
    assert shape.num_parameters(PROBLEM) == layers + 512 + 2 * 1024 * 512
    cache = 3 * 2 * 32 * 2 * 2 * 64 * 4
    assert shape.step_bytes(PROBLEM) == 4 * (layers + 512 + 1024 * 512 + 2 * (512 + 1024)) + cache
    attention = 3 * 4 * 2 * 32 * 8 * 64
    assert shape.step_flops(PROBLEM) == 2 * 2 * (3 * matrices + 1024 * 512) + attention


def test_without_transformers_there_is_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gqabench.attention_impls.parts.calls.packages.is_installed", lambda module: False)
    with pytest.raises(UnsupportedProblem, match="the package transformers is not installed"):
        make_generate_subject(SMALL, SHAPE, seed=0)


MISTAKES = [
    ("hf_cache=offloaded", "hf_cache=offloaded: must be dynamic or static"),
    ("hf_cache=null", "hf_cache=null: workload=generate needs dynamic or static"),
    ("model_layers=0", "model_layers=0: must be a positive whole number or null"),
    ("impls=[sdpa+none]", "impls=sdpa+none: unknown"),
    ("workload=decode impls=[sdpa+sdpa]", "impls=sdpa+sdpa: a pair PREFILL+DECODE needs workload=generate"),
]
COMBINATIONS = [
    ("model_layers=7", "model_layers=7: must be at most num_layers=6"),
    ("window=16", "window=16: must be null for workload=generate: a Llama has no sliding window"),
    ("tp=2", "tp=2: must be 1; workload=generate builds a whole model"),
    ("q_len=2", "q_len=2: must be 1; workload=generate decodes one token"),
    ("kv_len=1", "kv_len=1: must be 2 or more; workload=generate prefills kv_len - 1 tokens"),
    ("workload=decode model_layers=2", "model_layers=2: only workload=generate"),
]


def plan(host: HostDescription, overrides: str) -> Case | InvalidCase:
    register_keys()
    keys = ["workload=generate", "model=gqa_8_2", "kv_len=64", "impls=[sdpa]", *overrides.split()]
    latest = {key.partition("=")[0]: key for key in keys}
    with initialize_config_module("gqabench.conf", version_base="1.3"):
        return plan_case(compose("sweep", overrides=list(latest.values())), {"current": host})


@pytest.mark.parametrize(("overrides", "said"), MISTAKES)
def test_a_value_that_no_model_has_is_a_mistake(host: HostDescription, overrides: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        plan(host, overrides)


@pytest.mark.parametrize(("overrides", "said"), COMBINATIONS)
def test_values_that_do_not_go_together(host: HostDescription, overrides: str, said: str) -> None:
    case = plan(host, overrides)
    assert isinstance(case, InvalidCase)
    assert said in case.reason


def test_all_layers_on_request(host: HostDescription) -> None:
    case = plan(host, "model_layers=null hf_cache=static intermediate_size=null")
    assert isinstance(case, Case)
    assert case.llama == LlamaShape(num_layers=6, hidden_size=512, intermediate_size=1536, hf_cache="static")
    assert case.case_id != plan(host, "model_layers=null intermediate_size=null").case_id
