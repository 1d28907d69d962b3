"""Every implementation of the table on a grid of problems: right by float64, or unsupported for a true one.

A new implementation is taken up by its line in the registry. One that compiles each problem gets a few.
"""

import importlib.util
import random
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch.nn.attention import sdpa_kernel

from gqabench.attention_impls import AttentionImpl, AttentionProblem, get_impl
from gqabench.attention_impls.correctness.error_budget import error_budget, output_mismatch
from gqabench.attention_impls.correctness.reference import reference_attention
from gqabench.attention_impls.inputs import make_inputs
from gqabench.attention_impls.parts.calls.sdpa_backend_choice import BACKEND_LABELS
from gqabench.attention_impls.parts.calls.sdpa_call import SdpaCall
from gqabench.attention_impls.problem import DTYPE_ITEMSIZES, KV_DTYPE_ITEMSIZES
from gqabench.attention_impls.registry import BUILT_IN_IMPLS

GROUP_SIZES = (1, 2, 3, 4, 5, 7, 8, 16, 71)
HEAD_DIMS = (64, 80, 96, 128, 256)
DTYPES = tuple(DTYPE_ITEMSIZES)
LONGEST = {"decode": 300, "extend": 120, "prefill": 70}
LONGEST_OF_LARGE_GROUPS = {"decode": 300, "extend": 40, "prefill": 25}
"""Of 16 heads and more: as many rows of one key/value head as the others have, and more"""

NUM_REPEATS = 4
"""Problems of each group size, width and dtype."""

PROBLEMS_PER_GPU_TEST = 30


def draw_problem(rng: random.Random, group_size: int, head_dim: int, dtype: str) -> AttentionProblem:
    """Everything else at random; the features of a problem come together as often as alone."""

    def sometimes(value: object, share: float) -> object:
        return value if rng.random() < share else None

    phase = rng.choice(["decode", "decode", "extend", "prefill"])
    batch_size = rng.choice([1, 2, 3])
    num_kv_heads = rng.choice([1, 2, 3]) if group_size < 16 else 1
    kv_len = rng.randint(3, (LONGEST if group_size < 16 else LONGEST_OF_LARGE_GROUPS)[phase])
    lengths = tuple(rng.randint(1, kv_len) for _ in range(batch_size))
    return AttentionProblem(
        batch_size=batch_size,
        q_len={"decode": 1, "extend": rng.randint(2, kv_len - 1), "prefill": kv_len}[phase],
        kv_len=kv_len,
        num_q_heads=num_kv_heads * group_size,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        device="cpu",
        causal=rng.random() < 0.8,
        window=sometimes(rng.randint(1, kv_len + 5), 0.3),
        softmax_scale=sometimes(rng.choice([0.05, 0.2]), 0.2),
        logits_soft_cap=sometimes(rng.choice([1.0, 30.0]), 0.2),
        kv_lens=sometimes(lengths, 0.3),
        kv_dtype=sometimes(rng.choice(list(KV_DTYPE_ITEMSIZES)), 0.2),
        page_size=sometimes(rng.choice([1, 8, 16, 64]), 0.2),
    )


@cache
def grid() -> tuple[AttentionProblem, ...]:
    """The same problems in every process."""
    rng = random.Random(0)
    return tuple(
        draw_problem(rng, group_size, head_dim, dtype)
        for _ in range(NUM_REPEATS)
        for dtype in DTYPES
        for head_dim in HEAD_DIMS
        for group_size in GROUP_SIZES
    )


def compiled_numbers(*dtypes: str) -> list[int]:
    """Problems that compiled implementations get: the first of each phase and dtype with a plain cache."""
    return [
        next(
            number
            for number, problem in enumerate(grid())
            if (problem.phase, problem.dtype) == (phase, dtype)
            and problem.kv_dtype is None
            and problem.page_size is None
        )
        for phase in ("decode", "prefill", "extend")
        for dtype in dtypes
    ]


def complaint(impl: AttentionImpl, problem: AttentionProblem, solution: tuple) -> str | None:
    """What is wrong with an implementation's answer to a problem; None where it keeps its promise."""
    inputs, reference, budget = solution
    if reasons := impl.unsupported_reasons(problem):
        untrue = [reason for reason in reasons if not is_true(reason, problem)]
        return f"untrue or unclear reasons: {untrue}" if untrue else None
    try:
        with torch.inference_mode():
            output = impl.prepare(problem, inputs)()
    except RuntimeError as error:  # with the others of its test
        return f"raised {type(error).__name__}: {error}"
    if (mismatch := output_mismatch(problem, output)) is not None:
        return mismatch
    observed = budget.excess(output, reference)
    if not observed.error_ratio <= 1:
        return f"error ratio {observed.error_ratio:.3g} by {observed.criterion}"
    return None


def is_true(reason: str, problem: AttentionProblem) -> bool:
    """Whether a reason names a value that the problem has, or something that this machine lacks."""
    if named := re.match(r"(\w+)=(.+?): .", reason):
        key, value = named.groups()
        return hasattr(problem, key) and value in spellings(getattr(problem, key))
    if package := re.search(r"(?:package |^)([\w.-]+)(?: is|, which is) not installed", reason):
        return importlib.util.find_spec(package[1].replace("-", "_")) is None
    if compiler := re.search(r"no C\+\+ compiler (\S+) on PATH", reason):
        return shutil.which(compiler[1]) is None
    if refusal := re.match(r"(.+) attention of PyTorch \S+ on (cpu|cuda): .", reason):
        return problem.device_type == refusal[2] and is_refused_by_pytorch(refusal[1], problem)
    if "CUDA" in reason:
        return problem.device_type == "cpu"
    return False


def is_refused_by_pytorch(label: str, problem: AttentionProblem) -> bool:
    """Whether the kernel fails when it is called: the reasons ask PyTorch beforehand, without calling it."""
    (backend,) = [backend for backend, its_label in BACKEND_LABELS.items() if its_label == label]
    inputs, call = make_inputs(problem, seed=0), SdpaCall.for_problem(problem)
    with warnings.catch_warnings(), sdpa_kernel(backend), torch.inference_mode():
        warnings.simplefilter("ignore")  # each names an objection
        try:
            call(inputs.q, inputs.k, inputs.v)
        except RuntimeError as error:
            return re.match("No (available kernel|viable backend)", str(error)) is not None
    return False


def spellings(value: object) -> set[str]:
    """How a reason may write a value: as Python does, or as YAML."""
    texts = {str(value)}
    if isinstance(value, tuple):
        texts.add(str(list(value)))
    if value is None or isinstance(value, bool):
        texts.add("null" if value is None else str(value).lower())
    return texts


def solved(problem: AttentionProblem) -> tuple:
    inputs = make_inputs(problem, seed=0)
    reference = reference_attention(problem, inputs)
    return inputs, reference, error_budget(problem, inputs, reference)


@cache
def impls(compiled: bool) -> dict[str, AttentionImpl]:
    found = {name: get_impl(name) for name in BUILT_IN_IMPLS}
    return {name: impl for name, impl in found.items() if impl.compiles_each_problem == compiled}


def require_agreement(problems: Iterable[AttentionProblem], names: dict[str, AttentionImpl]) -> None:
    complaints = {}
    for problem in problems:
        solution = solved(problem)
        told = {name: complaint(impl, problem, solution) for name, impl in names.items()}
        complaints |= {(name, problem): text for name, text in told.items() if text}
    assert not complaints, "\n".join(f"{name}: {text}\n  {of}" for (name, of), text in complaints.items())


@pytest.mark.parametrize("number", range(len(grid())))
def test_every_implementation_agrees_or_says_truly_why_not(number):
    require_agreement([grid()[number]], impls(compiled=False))


@pytest.mark.parametrize("number", compiled_numbers("float32"))
@pytest.mark.parametrize("name", list(impls(compiled=True)))
def test_compiled_implementations_agree_on_some(name, number):
    require_agreement([grid()[number]], {name: impls(compiled=True)[name]})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("first", range(0, len(grid()), PROBLEMS_PER_GPU_TEST))
def test_every_implementation_agrees_on_cuda(first):
    problems = grid()[first : first + PROBLEMS_PER_GPU_TEST]
    require_agreement([replace(problem, device="cuda") for problem in problems], impls(compiled=False))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("number", compiled_numbers("float32", "bfloat16"))
@pytest.mark.parametrize("name", list(impls(compiled=True)))
def test_compiled_implementations_agree_on_cuda(monkeypatch, name, number):
    monkeypatch.setenv("GQABENCH_TUNING", "off")  # tuning measures time, and other tests run beside this one
    require_agreement([replace(grid()[number], device="cuda")], {name: impls(compiled=True)[name]})


@pytest.mark.parametrize("name", list(impls(compiled=True)))
def test_compiled_implementations_have_true_reasons_on_all(name):
    impl = impls(compiled=True)[name]
    for problem in grid():
        assert all(is_true(reason, problem) for reason in impl.unsupported_reasons(problem)), problem


def test_the_grid_covers_what_it_should():
    problems = grid()
    assert len(problems) == len(set(problems)) >= 500
    seen = Counter((problem.group_size, problem.head_dim, problem.dtype) for problem in problems)
    assert len(seen) == len(GROUP_SIZES) * len(HEAD_DIMS) * len(DTYPES)
    for feature in ("window", "softmax_scale", "logits_soft_cap", "kv_lens", "kv_dtype", "page_size"):
        have = [problem for problem in problems if getattr(problem, feature) is not None]
        assert 60 <= len(have) <= 250, feature
        for group_size in GROUP_SIZES:
            assert any(problem.group_size == group_size for problem in have), (feature, group_size)
    for phase in LONGEST:
        of_phase = [problem for problem in problems if problem.phase == phase]
        assert len(of_phase) >= 100
        assert {problem.group_size for problem in of_phase} == set(GROUP_SIZES)
    assert sum(problem.kv_len % 2 for problem in problems) > 200
    assert any(problem.kv_dtype and problem.page_size and problem.window for problem in problems)
    assert any(min(problem.kv_lens or (99,)) < problem.q_len for problem in problems)


@pytest.mark.parametrize(
    "reason",
    [
        "q_len=2: must be 1",
        "window=null: must not be null",
        "window=None: there is none",
        "no such field=1: ?",
        "page_size: is missing",
        "not today",
        "torch is not installed",
        "needs the package torch, which is not installed",
        "",
    ],
)
def test_a_reason_that_is_not_true_is_found_out(make_problem, reason):
    assert not is_true(reason, make_problem(q_len=1, window=3))


def test_a_refusal_by_pytorch_is_tried_out(make_problem):
    problem = make_problem(q_len=1)
    assert is_true("cuDNN attention of PyTorch 2.11.0 on cpu: it has none", problem)
    assert not is_true("flash attention of PyTorch 2.11.0 on cpu: it has none", problem)
    assert not is_true("cuDNN attention of PyTorch 2.11.0 on cuda: it has none", problem)
    assert not is_true("cuDNN attention of PyTorch 2.11.0 on cpu: ", problem)


@pytest.mark.parametrize(
    "reason",
    [
        "q_len=1: must be more",
        "window=3: no windows",
        "page_size=null: needs pages",
        "causal=True: not here",
        "kv_lens=[8, 2]: not ragged",
        "group_size=2: must be 1",
        "a_package_that_nobody_has is not installed",
    ],
)
def test_a_reason_that_is_true_is_believed(make_problem, reason):
    assert is_true(reason, make_problem(q_len=1, window=3, kv_lens=(8, 2)))
