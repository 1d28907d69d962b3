"""`triton_decode` and `triton_prefill`: what they refuse and why, and their answers through the interpreter.

Triton decides when a kernel is decorated whether it is interpreted. So the problems stand in files of their
own, `interpreted_*.py`, which are run in a process with `TRITON_INTERPRET=1`, and on a GPU without.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gqabench.attention_impls import get_impl

HERE = Path(__file__).parent
KERNELS = ["decode", "prefill"]
FEWEST_TESTS = {"decode": 55, "prefill": 18}


def run_tests(*kernels: str, **environment: str) -> None:
    """Run files of problems in a process of their own: all must pass, and none be skipped."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *(f"interpreted_triton_{kernel}.py" for kernel in kernels),
    ]
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    result = subprocess.run(command, cwd=HERE, env=variables, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    summary = result.stdout.splitlines()[-1]
    assert int(re.match(r"(\d+) passed", summary)[1]) >= sum(FEWEST_TESTS[kernel] for kernel in kernels)
    assert "skipped" not in summary


def test_both_agree_with_the_reference_in_the_interpreter():
    run_tests(*KERNELS, TRITON_INTERPRET="1")


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", KERNELS)
def test_agrees_with_the_reference_on_a_gpu(kernel):
    run_tests(kernel, TRITON_INTERPRET="0", GQABENCH_TUNING="off")


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_cpu_is_a_reason(make_problem, monkeypatch, kernel):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    problem = make_problem(q_len={"decode": 1, "prefill": 8}[kernel])
    (reason,) = get_impl(f"triton_{kernel}").unsupported_reasons(problem)
    assert reason.startswith("device=cpu: needs a CUDA device")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert get_impl(f"triton_{kernel}").unsupported_reasons(problem) == []


@pytest.mark.parametrize(
    ("kernel", "fields", "expected"),
    [
        ("decode", {"q_len": 17, "kv_len": 20}, ["q_len=17: "]),
        ("decode", {"head_dim": 257}, ["head_dim=257: "]),
        ("decode", {"q_len": 16, "kv_len": 16, "kv_dtype": "int8", "page_size": 4, "window": 2}, []),
        ("prefill", {"q_len": 1}, ["q_len=1: "]),
        ("prefill", {"q_len": 8, "kv_dtype": "int8", "page_size": 4}, ["kv_dtype=int8: ", "page_size=4: "]),
        ("prefill", {"q_len": 4, "head_dim": 300}, ["head_dim=300: "]),
        ("prefill", {"q_len": 8, "window": 3, "logits_soft_cap": 2.0, "causal": False}, []),
    ],
)
def test_what_is_refused(make_problem, monkeypatch, kernel, fields, expected):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    reasons = get_impl(f"triton_{kernel}").unsupported_reasons(make_problem(**fields))
    assert len(reasons) == len(expected)
    assert all(reason.startswith(start) for reason, start in zip(reasons, expected, strict=True))


def test_triton_that_is_not_there_is_a_reason(make_problem, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert get_impl("triton_decode").unsupported_reasons(make_problem()) == [
        "package triton is not installed"
    ]
