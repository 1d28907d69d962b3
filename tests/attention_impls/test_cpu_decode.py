"""The C++ kernel for CPUs: edge cases, memory, determinism, and what it says where it cannot be built."""

import ctypes
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gqabench.attention_impls import AttentionInputs, AttentionProblem, get_impl
from gqabench.attention_impls.cache_folder import CACHE_VARIABLE
from gqabench.attention_impls.correctness.error_budget import error_budget, output_mismatch
from gqabench.attention_impls.correctness.reference import reference_attention
from gqabench.attention_impls.inputs import make_inputs, make_queries
from gqabench.attention_impls.kernels.cpu_decode.arguments import Arguments
from gqabench.attention_impls.kernels.cpu_decode.build import (
    CannotBuild,
    load_kernel,
    openmp_runtime,
    require_cpu,
)
from gqabench.attention_impls.kernels.cpu_decode.plan import MAX_ROWS, Plan

ROOM = 0.9
"""Of the budget: correct implementations keep well away from it."""

CASES = {
    "one key": {"kv_len": 1},
    "one key, group of 71": {"kv_len": 1, "num_q_heads": 71, "num_kv_heads": 1},
    "group of 71": {"num_q_heads": 71, "num_kv_heads": 1, "kv_len": 777},
    "group of 71, extend": {"num_q_heads": 71, "num_kv_heads": 1, "q_len": 16, "kv_len": 333},
    "splits that end within a block": {"kv_len": 128 * 16 + 5},
    "extend by 16, split": {"q_len": 16, "kv_len": 3001},
    "extend by 3, window shorter than it": {"q_len": 3, "kv_len": 1500, "window": 2},
    "windows that skip nearly all": {"batch_size": 2, "kv_len": 9000, "window": 33},
    "ragged, window, soft cap": {
        "batch_size": 3, "kv_len": 700, "kv_lens": (700, 1, 333), "window": 100, "logits_soft_cap": 2.0,
    },
    "queries without keys": {"batch_size": 2, "q_len": 9, "kv_len": 12, "kv_lens": (12, 2)},
    "not causal, fewer keys than queries": {
        "batch_size": 2, "q_len": 9, "kv_len": 12, "kv_lens": (12, 2), "causal": False,
    },
    "soft cap that hardly bends": {"kv_len": 500, "logits_soft_cap": 50.0},
    "steep softmax": {"kv_len": 500, "softmax_scale": 2.0},
    "head_dim 72": {"head_dim": 72, "kv_len": 99},
    "head_dim 7": {"head_dim": 7, "kv_len": 99},
    "head_dim 80": {"head_dim": 80, "kv_len": 300, "num_q_heads": 6},
    "head_dim 96": {"head_dim": 96, "kv_len": 300, "num_q_heads": 10},
    "head_dim 112": {"head_dim": 112, "kv_len": 300, "num_q_heads": 14},
    "head_dim 256": {"head_dim": 256, "kv_len": 300, "num_q_heads": 12},
    "mha": {"num_q_heads": 2, "kv_len": 900},
    "prefill": {"q_len": 150, "kv_len": 150},
}  # fmt: skip
FORMATS = [
    ("float32", None),
    ("bfloat16", None),
    ("float16", None),
    ("float32", "int8"),
    ("bfloat16", "int8"),
]


@pytest.fixture(autouse=True)
def _needs_a_compiler(make_problem):
    if reasons := get_impl("cpu_decode").unsupported_reasons(make_problem()):
        pytest.skip(reasons[0])


def output_of(problem: AttentionProblem, inputs: AttentionInputs) -> torch.Tensor:
    with torch.inference_mode():
        return get_impl("cpu_decode").prepare(problem, inputs)()


@pytest.mark.parametrize(("dtype", "kv_dtype"), FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(make_problem, case, dtype, kv_dtype):
    fields = {"batch_size": 1, "num_q_heads": 8, "num_kv_heads": 2, "head_dim": 64} | CASES[case]
    problem = make_problem(**fields, dtype=dtype, kv_dtype=kv_dtype)
    inputs = make_inputs(problem, 0)
    reference = reference_attention(problem, inputs)
    output = output_of(problem, inputs)
    assert output_mismatch(problem, output) is None
    assert error_budget(problem, inputs, reference).excess(output, reference).error_ratio < ROOM


@pytest.mark.parametrize("kv_len", [300, 5000])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["q", "k", "v"])
@pytest.mark.parametrize(("dtype", "soft_cap"), [("float32", None), ("bfloat16", None), ("float32", 20.0)])
def test_what_is_no_number_shows_where_it_shows_in_the_formula(
    make_problem, dtype, soft_cap, where, value, kv_len
):
    problem = make_problem(kv_len=kv_len, head_dim=64, dtype=dtype, logits_soft_cap=soft_cap)
    inputs = make_inputs(problem, 0)
    getattr(inputs, where)[0, 0, -1, 5] = value
    expected = get_impl("grouped_matmul").prepare(problem, inputs)()
    output = output_of(problem, inputs)
    assert torch.equal(output.isnan(), expected.isnan())
    assert output.isnan().any() or expected.isfinite().all() or torch.equal(output.isinf(), expected.isinf())


@pytest.mark.parametrize("kv_len", [40, 5000])
def test_logits_may_all_be_far_below_zero(make_problem, kv_len):
    """A running maximum, or one of merged parts, that began at zero would leave nothing."""
    problem = make_problem(kv_len=kv_len, head_dim=64)
    inputs = make_inputs(problem, 0)
    inputs.q.fill_(20.0)
    inputs.k.sub_(10.0)
    reference = reference_attention(problem, inputs)
    output = output_of(problem, inputs)
    assert output.abs().max() > 0.01
    assert error_budget(problem, inputs, reference).excess(output, reference).error_ratio < ROOM


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_batch_of_lengths_from_1_to_100_000(make_problem, dtype):
    lengths = (100_000, 1, 17, 4096, 99_999)
    problem = make_problem(
        batch_size=5, num_kv_heads=1, head_dim=64, kv_len=100_000, kv_lens=lengths, dtype=dtype
    )
    inputs = make_inputs(problem, 0)
    reference = reference_attention(problem, inputs)
    budget = error_budget(problem, inputs, reference)
    assert budget.excess(output_of(problem, inputs), reference).error_ratio < ROOM


@given(
    q_len=st.integers(1, 40),
    more=st.integers(0, 900),
    window=st.none() | st.integers(1, 300),
    group_size=st.integers(1, 9),
    head_dim=st.integers(1, 40),
    num_threads=st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_on_any_number_of_threads(q_len, more, window, group_size, head_dim, num_threads):
    problem = AttentionProblem(
        batch_size=1, q_len=q_len, kv_len=q_len + more, num_q_heads=2 * group_size, num_kv_heads=2,
        head_dim=head_dim, dtype="float32", device="cpu", window=window,
    )  # fmt: skip
    inputs = make_inputs(problem, 0)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        output = output_of(problem, inputs)
    finally:
        torch.set_num_threads(before)
    reference = reference_attention(problem, inputs)
    assert error_budget(problem, inputs, reference).excess(output, reference).error_ratio < ROOM


def test_the_same_from_run_to_run_and_in_a_cache_with_room(make_problem):
    """A layer hands over the filled part of a longer cache."""
    problem = make_problem(batch_size=2, kv_len=2500, head_dim=80, num_q_heads=14, dtype="bfloat16")
    inputs = make_inputs(problem, 0)
    k, v = (torch.full((2, 2, 4000, 80), float("nan"), dtype=torch.bfloat16) for _ in range(2))
    k[:, :, :2500], v[:, :, :2500] = inputs.k, inputs.v
    roomy = AttentionInputs(inputs.q, k[:, :, :2500], v[:, :, :2500])
    first = output_of(problem, inputs)
    with torch.inference_mode():
        prepared = get_impl("cpu_decode").prepare(problem, roomy)
        assert all(torch.equal(prepared(), first) for _ in range(20))


def test_queries_and_cache_are_read_when_called(make_problem):
    problem = make_problem(kv_len=300)
    inputs = make_inputs(problem, 0)
    prepared = get_impl("cpu_decode").prepare(problem, inputs)
    prepared()
    inputs.q.copy_(make_queries(problem, 0, 1)[0])
    inputs.v.mul_(2)
    reference = reference_attention(problem, inputs)
    assert float((prepared() - reference).abs().max()) < 1e-5


def test_only_what_a_window_shows_is_read(make_problem):
    problem = make_problem(kv_len=5000, window=100, q_len=4)
    inputs = make_inputs(problem, 0)
    output = output_of(problem, inputs)
    inputs.k[:, :, : 5000 - 103] = float("nan")
    inputs.v[:, :, : 5000 - 103] = float("nan")
    assert torch.equal(output_of(problem, inputs), output)
    chunks = Plan.of(problem, 2).chunks
    assert sum(chunk.end_key - chunk.first_key for chunk in chunks) == 2 * 2 * 103


@pytest.mark.parametrize("kv_dtype", [None, "int8"])
def test_the_workspace_is_what_the_plan_says_and_does_not_grow_with_the_context(
    make_problem, profile_call, kv_dtype
):
    peaks = []
    for kv_len in (4096, 8192, 32768):
        problem = make_problem(kv_len=kv_len, head_dim=64, num_q_heads=8, dtype="bfloat16", kv_dtype=kv_dtype)
        prepared = get_impl("cpu_decode").prepare(problem, make_inputs(problem, 0))
        profile = profile_call(prepared)
        assert "gqabench::cpu_decode" in profile.operators
        plan = Plan.of(problem, torch.get_num_threads())
        assert profile.peak_bytes == plan.workspace_floats * 4 + 2 * 8 * 64 * 2
        peaks.append(profile.peak_bytes)
    assert max(peaks) < 1.2 * min(peaks)
    assert max(peaks) < 2**19


def test_partial_results_are_bounded_by_the_threads():
    problem = AttentionProblem(
        batch_size=64, q_len=1, kv_len=100_000, num_q_heads=32, num_kv_heads=8, head_dim=128,
        dtype="float32", device="cpu", kv_lens=(100_000, 90_000, *([1] * 62)),
    )  # fmt: skip
    for num_threads in (1, 2, 16):
        plan = Plan.of(problem, num_threads)
        assert sum(merge.num_slots for merge in plan.merges) <= 16 * num_threads
        assert all(chunk.num_rows <= MAX_ROWS for chunk in plan.chunks)


def test_every_row_and_key_is_in_one_chunk(make_problem):
    problem = make_problem(batch_size=3, q_len=5, kv_len=4000, kv_lens=(4000, 2, 1777), num_q_heads=42)
    plan = Plan.of(problem, 3)
    seen = torch.zeros(3, 2, 5 * 21, 4000, dtype=torch.int8)
    for chunk in plan.chunks:
        rows = slice(chunk.first_row, chunk.first_row + chunk.num_rows)
        seen[chunk.sequence, chunk.head, rows, chunk.first_key : chunk.end_key] += 1
    for sequence, length in enumerate(problem.kv_lens):
        assert bool((seen[sequence, :, :, : max(length - 4, 0)] == 1).all())
        assert not seen[sequence, :, :, length:].any()
    assert seen.max() == 1


def test_elements_beyond_2_31(make_problem):
    """A head is longer than that, and the window shows its end. Pages that nobody touches take no memory."""
    kv_len, head_dim = 2**31 // 256 + 600, 256
    if psutil.virtual_memory().total < (needed := 2 * kv_len * head_dim * 2):
        pytest.skip(f"needs an address space of {needed / 2**30:.0f} GiB")
    k, v = (
        torch.from_numpy(np.zeros((1, 1, kv_len, head_dim), dtype=np.int16)).view(torch.bfloat16)
        for _ in range(2)
    )
    problem = make_problem(
        batch_size=1, num_q_heads=2, num_kv_heads=1, kv_len=kv_len, head_dim=head_dim, window=500,
        dtype="bfloat16",
    )  # fmt: skip
    small = replace(problem, kv_len=500, window=None)
    inputs = make_inputs(small, 0)
    k[:, :, -500:] = inputs.k
    v[:, :, -500:] = inputs.v
    large = output_of(problem, AttentionInputs(inputs.q, k, v))
    reference = reference_attention(small, inputs)
    assert error_budget(small, inputs, reference).excess(large, reference).error_ratio < ROOM


def test_the_struct_is_as_large_as_the_kernel_takes_it():
    assert ctypes.sizeof(Arguments) == 8 * len(Arguments._fields_)


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    """No kernel is built or loaded yet, and builds go to a folder of the test's own."""
    load_kernel.cache_clear()
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    yield folder
    load_kernel.cache_clear()


@pytest.fixture
def hasty_compiler(monkeypatch, tmp_path) -> None:
    """Compiles without optimising, in a third of the time."""
    monkeypatch.setenv("CXX", compiler_that(tmp_path, HASTY))


def reasons(make_problem) -> list[str]:
    return get_impl("cpu_decode").unsupported_reasons(make_problem())


HASTY = 'exec g++ "$@" -O0'


def compiler_that(tmp_path: Path, body: str) -> str:
    script = tmp_path / "compiler"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def test_no_compiler_is_a_reason_unless_there_is_a_build(make_problem, monkeypatch, tmp_path, empty_cache):
    monkeypatch.setenv("CXX", "no-such-compiler")
    (reason,) = reasons(make_problem)
    assert "no C++ compiler no-such-compiler on PATH" in reason
    assert not empty_cache.exists()


def test_a_broken_compiler_is_a_reason_and_leaves_nothing(make_problem, monkeypatch, tmp_path, empty_cache):
    monkeypatch.setenv(
        "CXX", compiler_that(tmp_path, "echo 'x.cpp:1: error: omp.h: No such file' >&2; exit 1")
    )
    (reason,) = reasons(make_problem)
    assert "could not build the kernel: x.cpp:1: error: omp.h: No such file" in reason
    assert list(empty_cache.iterdir()) == []


def test_a_cache_folder_that_cannot_be_is_a_reason(make_problem, monkeypatch, tmp_path, empty_cache):
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "below"))
    (reason,) = reasons(make_problem)
    assert f"{tmp_path / 'file' / 'below'}: Not a directory" in reason
    assert CACHE_VARIABLE in reason


def test_what_cannot_be_loaded_is_a_reason_and_built_anew(make_problem, monkeypatch, tmp_path, empty_cache):
    wrong = compiler_that(tmp_path, 'for last; do :; done; echo "not a library" > "$last"')
    monkeypatch.setenv("CXX", wrong)
    (reason,) = reasons(make_problem)
    assert "cannot be loaded" in reason
    assert compiler_that(tmp_path, HASTY) == wrong  # the same compiler, repaired
    load_kernel.cache_clear()
    assert reasons(make_problem) == []


@pytest.mark.usefixtures("hasty_compiler")
def test_a_build_that_was_cut_off_is_built_anew(make_problem, empty_cache):
    assert reasons(make_problem) == []
    (library,) = empty_cache.glob("*.so")
    whole = library.read_bytes()
    copy = library.with_name("copy")  # the file that this process has loaded must not be cut
    copy.write_bytes(whole[: len(whole) // 2])
    copy.replace(library)
    load_kernel.cache_clear()
    assert reasons(make_problem) == []
    assert library.stat().st_size == len(whole)


def test_other_processors_and_runtimes_are_reasons(tmp_path):
    cpuinfo, maps = tmp_path / "cpuinfo", tmp_path / "maps"
    cpuinfo.write_text("model name\t: Old\nflags\t\t: fpu sse2 avx f16c\n")
    with pytest.raises(CannotBuild, match="this CPU lacks avx2, fma"):
        require_cpu(cpuinfo)
    maps.write_text("7f0-7f1 r--p 0 0:0 0  /usr/lib/libc.so.6\n")
    with pytest.raises(CannotBuild, match="no OpenMP runtime"):
        openmp_runtime(maps)
    maps.write_text(
        "".join(
            f"7f0-7f1 r--p 0 0:0 0  {path}\n" for path in ("/a/libgomp.so.1", "/torch/lib/libgomp-1.so.1")
        )
    )
    assert openmp_runtime(maps) == "/torch/lib/libgomp-1.so.1"


@pytest.mark.usefixtures("hasty_compiler")
def test_processes_that_build_at_once_do_not_disturb_each_other(make_problem, empty_cache):
    code = (
        "import sys, torch\n"
        "from gqabench.attention_impls import AttentionProblem, get_impl\n"
        "from gqabench.attention_impls.inputs import make_inputs\n"
        "problem = AttentionProblem(2, 1, 8, 4, 2, 16, 'float32', 'cpu')\n"
        "inputs = make_inputs(problem, 0)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "prepared = get_impl('cpu_decode').prepare(problem, inputs)\n"
        "print(prepared.compile_ms, float(prepared().sum()))\n"
    )
    problem = make_problem()
    inputs = make_inputs(problem, 0)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "ready\n"
        other.stdin.write("go\n")
        other.stdin.flush()
        prepared = get_impl("cpu_decode").prepare(problem, inputs)
        others_compile_ms, others_sum = other.communicate(timeout=300)[0].split()
    assert other.returncode == 0
    assert float(others_sum) == float(prepared().sum())
    (compile_ms,) = {str(prepared.compile_ms), others_compile_ms} - {"None"}  # one built, and one waited
    assert float(compile_ms) > 100
    assert len(list(empty_cache.glob("*.so"))) == 1
    assert {path.suffix for path in empty_cache.iterdir()} == {".so", ".sha256"}


def test_the_process_has_one_openmp_runtime(make_problem):
    output_of(make_problem(), make_inputs(make_problem(), 0))
    lines = Path("/proc/self/maps").read_text().splitlines()
    runtimes = {line.split()[-1] for line in lines if "libgomp" in line}
    assert len(runtimes) == 1
