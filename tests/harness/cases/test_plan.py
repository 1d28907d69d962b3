from __future__ import annotations

from dataclasses import replace

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from gqabench.attention_impls import InvalidCombination
from gqabench.conf.presets import list_presets
from gqabench.harness.cases.case import Case, InvalidCase
from gqabench.harness.cases.keys import register_keys
from gqabench.harness.cases.plan import plan_case, rank_heads
from gqabench.harness.errors import UsageError
from gqabench.harness.machine.host import HostDescription


def configure(*overrides: str) -> DictConfig:
    register_keys()
    with initialize_config_module("gqabench.conf", version_base="1.3"):
        return compose("sweep", overrides=list(overrides))


def plan(host: HostDescription, *overrides: str) -> Case:
    case = plan_case(configure(*overrides), {"current": host})
    assert isinstance(case, Case)
    return case


@pytest.mark.parametrize(
    ("model", "bytes_per_token"),
    [
        ("llama2_7b", 524288),
        ("llama2_70b", 327680),
        ("llama3_8b", 131072),
        ("mistral_7b", 131072),
        ("qwen2_5_7b", 57344),
        ("falcon_7b", 8192),
    ],
)
def test_cache_bytes_per_token_over_all_layers(
    host: HostDescription, model: str, bytes_per_token: int
) -> None:
    fields = plan(host, f"model={model}", "dtype=bfloat16", "kv_len=100", "batch_size=3").model_fields()
    assert fields["kv_cache_bytes_model_per_token"] == bytes_per_token
    assert fields["kv_cache_bytes_model_all_layers"] == 300 * bytes_per_token


def test_auto_means_float32_on_a_cpu_and_bfloat16_where_the_gpu_has_it(
    host: HostDescription, gpu_host: HostDescription
) -> None:
    on_cpu = plan(host).problem
    assert (on_cpu.device, on_cpu.dtype) == ("cpu", "float32")
    cpu, gpu = gpu_host.devices
    newer = replace(gpu, dtypes=[*gpu.dtypes, "bfloat16"])
    on_gpu = plan(replace(gpu_host, devices=(cpu, newer))).problem
    assert (on_gpu.device, on_gpu.dtype) == ("cuda:0", "bfloat16")


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["batch_size=0"], "batch_size=0: must be a positive whole number"),
        (["kv_len=-4"], "kv_len=-4: must be a positive whole number"),
        (["tp=0"], "tp=0: must be a positive whole number"),
        (["num_layers=0"], "num_layers=0: must be a positive whole number"),
        (["window=0"], "window=0: must be a positive whole number or null"),
        (["page_size=-1"], "page_size=-1: must be a positive whole number or null"),
        (["logits_soft_cap=-1"], "logits_soft_cap=-1.0: must be a positive number or null"),
        (["dtype=float64"], "dtype=float64: must be one of auto, float32, float16, bfloat16"),
        (["kv_dtype=int4"], "kv_dtype=int4: must be one of int8, float8_e4m3, null"),
        (["device=cuda"], "device=cuda: not on this machine; valid: auto, cpu"),
        (["device=tpu"], "device=tpu: not on this machine; valid: auto, cpu"),
        (["impls=[nope]"], "impls=nope: unknown; valid: reference, "),
        (["impls=[]"], r"impls=\[\]: must be a list of implementation names"),
        (["impls=[sdpa,sdpa]"], "names sdpa twice"),
        (["impls=[gone.py:Impl]"], r"impls=gone.py:Impl: no file /.*gone.py"),
        (["measure.slice_ms=0"], "measure.slice_ms=0.0: must be positive"),
        (["measure.slice_ms=inf"], "measure.slice_ms=inf: must be positive and finite"),
        (["seed=-1"], "seed=-1: must be 0 or more"),
        (["measure.caches=[hot]"], r"measure.caches=\['hot'\]: must be \[cold\], \[warm\]"),
    ],
)
def test_values_that_are_never_valid(host: HostDescription, overrides: list[str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        plan_case(configure(*overrides), {"current": host})


def test_a_dtype_that_the_device_lacks(gpu_host: HostDescription) -> None:
    with pytest.raises(UsageError, match=r"dtype=bfloat16: some GPU lacks it; valid: float32, float16"):
        plan_case(configure("dtype=bfloat16", "device=cuda"), {"current": gpu_host})


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (
            ["num_q_heads=30", "num_kv_heads=8"],
            "must divide num_q_heads=30; valid: 1, 2, 3, 5, 6, 10, 15, 30",
        ),
        (["workload=extend", "q_len=9", "kv_len=8"], "q_len=9: must not exceed kv_len=8"),
        (["q_len=2"], "workload=decode needs q_len=1"),
        (["workload=prefill", "q_len=2"], "workload=prefill needs q_len=kv_len=4096"),
        (["workload=extend", "q_len=1"], "workload=extend needs 1 < q_len < kv_len=4096"),
        (["tp=3"], "tp=3: must divide num_q_heads=32"),
        (["tp=16", "num_kv_heads=32", "num_q_heads=32", "num_kv_heads=6"], "num_kv_heads=6: must divide"),
    ],
)
def test_values_that_do_not_go_together_make_unsupported_rows(
    host: HostDescription, overrides: list[str], reason: str
) -> None:
    case = plan_case(configure(*overrides, "impls=[sdpa,flex]"), {"current": host})
    assert isinstance(case, InvalidCase)
    assert reason in case.reason
    assert [arm.impl for arm in case.arms] == ["sdpa", "flex"]
    assert case.shape_fields()["group_size"] is None


@pytest.mark.parametrize(
    ("heads", "tp", "expected"),
    [
        ((64, 8), 1, (64, 8)),
        ((64, 8), 4, (16, 2)),
        ((64, 8), 8, (8, 1)),
        ((64, 8), 16, (4, 1)),
        ((71, 1), 71, (1, 1)),
    ],
)
def test_tensor_parallel_ranks_divide_heads_and_copy_scarce_kv_heads(
    heads: tuple[int, int], tp: int, expected: tuple[int, int]
) -> None:
    assert rank_heads(*heads, tp=tp) == expected


def test_kv_heads_that_neither_divide_nor_multiply_the_ranks() -> None:
    with pytest.raises(InvalidCombination, match="tp=4: must divide num_kv_heads=6"):
        rank_heads(24, 6, tp=4)


def test_a_rank_keeps_the_layer_width_of_the_whole_model(host: HostDescription) -> None:
    case = plan(host, "model=llama2_70b", "tp=8")
    assert (case.problem.num_q_heads, case.problem.num_kv_heads, case.hidden_size) == (8, 1, 8192)


def test_case_ids_tell_problems_apart_and_nothing_else(host: HostDescription) -> None:
    base = plan(host, "kv_len=128")
    assert plan(host, "kv_len=128", "measure=thorough", "impls=[flex]").case_id == base.case_id
    assert plan(host, "kv_len=129").case_id != base.case_id
    assert plan(host, "kv_len=128", "workload=layer").case_id != base.case_id


def test_every_workload_plans(host: HostDescription) -> None:
    for workload in list_presets("workload"):
        assert plan(host, f"workload={workload}").workload == workload
