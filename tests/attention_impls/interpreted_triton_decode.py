"""`triton_decode` on problems: run by `test_triton_impls.py`, through the interpreter or on a GPU."""

import random
from dataclasses import replace

import pytest
import torch

from gqabench.attention_impls import AttentionInputs, AttentionProblem, get_impl
from gqabench.attention_impls.correctness.error_budget import error_budget, output_mismatch
from gqabench.attention_impls.correctness.reference import reference_attention
from gqabench.attention_impls.inputs import make_inputs, make_queries
from gqabench.attention_impls.kernels.triton.decode_config import DecodeConfig, tile_candidates
from gqabench.attention_impls.kernels.triton.decode_launch import DecodeCache, DecodeLaunch
from gqabench.attention_impls.kernels.triton.device import is_interpreted
from gqabench.attention_impls.parts.caches.quantisation import quantise

DEVICE = "cpu" if is_interpreted() else "cuda"
ROOM = 0.9
SMALL = DecodeConfig("padded", 16, 4, 2, programs_per_sm=2, merge="last_arrival")
SWAPPED = replace(SMALL, layout="swapped", block_n=32)
TWO_KERNELS = replace(SMALL, merge="second_kernel")
LARGE = replace(SMALL, block_n=4096 if is_interpreted() else 64, programs_per_sm=16)

CASES = {
    "one key": ({"kv_len": 1}, SMALL),
    "one key, q_len 1 of ragged": ({"kv_len": 70, "kv_lens": (1, 70)}, SMALL),
    "splits that end within a tile": ({"kv_len": 75}, SMALL),
    "second kernel": ({"kv_len": 75}, TWO_KERNELS),
    "swapped, splits": ({"kv_len": 150}, SWAPPED),
    "bfloat16": ({"kv_len": 75, "dtype": "bfloat16"}, SMALL),
    "bfloat16, swapped": ({"kv_len": 75, "dtype": "bfloat16"}, SWAPPED),
    "float16, second kernel": ({"kv_len": 75, "dtype": "float16"}, TWO_KERNELS),
    "group of 71": ({"num_q_heads": 71, "num_kv_heads": 1, "kv_len": 50, "dtype": "bfloat16"}, SMALL),
    "group of 71 by 16 queries": (
        {
            "num_q_heads": 71, "num_kv_heads": 1, "kv_len": 20, "q_len": 16, "dtype": "bfloat16",
        }, SMALL,
    ),
    "mha": ({"num_q_heads": 2, "num_kv_heads": 2, "kv_len": 50}, SWAPPED),
    "head_dim 80": ({"head_dim": 80, "kv_len": 50}, SMALL),
    "head_dim 96, swapped": ({"head_dim": 96, "kv_len": 50}, SWAPPED),
    "head_dim 112, second kernel": ({"head_dim": 112, "kv_len": 50}, TWO_KERNELS),
    "head_dim 256": ({"head_dim": 256, "kv_len": 40}, SMALL),
    "head_dim 7": ({"head_dim": 7, "kv_len": 40}, SMALL),
    "window of one": ({"kv_len": 100, "window": 1}, SMALL),
    "window, not on a tile": ({"kv_len": 100, "window": 23}, SMALL),
    "window, ragged, 5 queries": ({"kv_len": 60, "kv_lens": (3, 60), "window": 23, "q_len": 5}, SMALL),
    "windows without a key": ({"kv_len": 40, "kv_lens": (2, 40), "window": 3, "q_len": 9}, SMALL),
    "fewer keys than queries, not causal": (
        {"kv_len": 40, "kv_lens": (2, 40), "q_len": 9, "causal": False}, SMALL,
    ),
    "16 queries, split": ({"kv_len": 70, "q_len": 16, "num_q_heads": 6, "dtype": "bfloat16"}, SMALL),
    "16 queries, swapped": ({"kv_len": 80, "q_len": 16, "num_q_heads": 6}, SWAPPED),
    "prefill of few": ({"kv_len": 12, "q_len": 12}, SMALL),
    "soft cap": ({"kv_len": 40, "logits_soft_cap": 1.0}, SMALL),
    "large soft cap, scale": ({"kv_len": 40, "logits_soft_cap": 50.0, "softmax_scale": 0.3}, SMALL),
    "pages": ({"kv_len": 40, "page_size": 16}, SMALL),
    "pages smaller than a tile, ragged": ({"kv_len": 40, "page_size": 4, "kv_lens": (9, 40)}, SMALL),
    "pages larger than a tile, window": ({"kv_len": 150, "page_size": 64, "window": 70}, SMALL),
    "odd pages, second kernel": ({"kv_len": 50, "page_size": 7}, TWO_KERNELS),
    "int8": ({"kv_len": 40, "kv_dtype": "int8"}, SMALL),
    "int8, bfloat16, swapped": ({"kv_len": 70, "kv_dtype": "int8", "dtype": "bfloat16"}, SWAPPED),
    "int8, pages": ({"kv_len": 40, "kv_dtype": "int8", "page_size": 16, "kv_lens": (40, 33)}, SMALL),
    "float8": ({"kv_len": 40, "kv_dtype": "float8_e4m3"}, SMALL),
    "float8, float16, swapped": ({"kv_len": 70, "kv_dtype": "float8_e4m3", "dtype": "float16"}, SWAPPED),
    "float8, pages, 4 queries": (
        {"kv_len": 40, "kv_dtype": "float8_e4m3", "page_size": 8, "q_len": 4, "dtype": "bfloat16"}, SMALL,
    ),
    "ragged from 1 to 20000": (
        {
            "batch_size": 3, "num_q_heads": 2, "kv_len": 20_000,
            "kv_lens": (1, 20_000, 257),
        }, LARGE,
    ),
}  # fmt: skip

LAUNCHED_TWICE = {"splits that end within a tile", "second kernel", "swapped, splits"}
"""One case of each way to merge parts and each layout. A GPU launches all twice: there, order may differ."""

LONGEST = 50 if is_interpreted() else 100
"""Keys of a problem at random: four tiles, which two programs share"""

SPLIT = (
    "splits that end within a tile",
    "swapped, splits",
    "odd pages, second kernel",
    "16 queries, split",
    "ragged from 1 to 20000",
)


def problem_of(**fields: object) -> AttentionProblem:
    """Return a problem of two sequences; of one in the slow interpreter, unless lengths are given."""
    is_small = is_interpreted() and "kv_lens" not in fields
    defaults = {
        "batch_size": 1 if is_small else 2,
        "q_len": 1,
        "num_q_heads": 3,
        "num_kv_heads": 1,
        "head_dim": 64,
    }
    return AttentionProblem(**defaults | {"dtype": "float32", "device": DEVICE} | fields)


def seen_by_cache(problem: AttentionProblem, inputs: AttentionInputs) -> AttentionInputs:
    """Keys and values as a quantised cache has them."""
    if problem.kv_dtype is None:
        return inputs
    k, v = (quantise(x, problem.kv_dtype).dequantise(torch.float64) for x in (inputs.k, inputs.v))
    return AttentionInputs(inputs.q, k, v)


def require_correct(problem: AttentionProblem, inputs: AttentionInputs, output: torch.Tensor) -> None:
    exact = seen_by_cache(problem, inputs)
    reference = reference_attention(problem, exact)
    assert output_mismatch(problem, output) is None
    assert error_budget(problem, exact, reference).excess(output, reference).error_ratio < ROOM


def launch_of(problem: AttentionProblem, config: DecodeConfig) -> tuple[AttentionInputs, DecodeLaunch]:
    inputs = make_inputs(problem, 0)
    return inputs, DecodeLaunch(problem, inputs, DecodeCache.of(problem, inputs), config)


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference_and_with_itself(case):
    fields, config = CASES[case]
    problem = problem_of(**fields)
    inputs, launch = launch_of(problem, config)
    output = launch()
    require_correct(problem, inputs, output)
    if case in LAUNCHED_TWICE or not is_interpreted():
        assert torch.equal(output, launch())


@pytest.mark.parametrize("config", [SMALL, SWAPPED, TWO_KERNELS])
@pytest.mark.parametrize("kv_len", [20, 150])
def test_logits_may_all_be_far_below_zero(config, kv_len):
    """A running maximum, or one of merged parts, that began at zero would leave nothing."""
    problem = problem_of(kv_len=kv_len)
    inputs, launch = launch_of(problem, config)
    inputs.q.fill_(20.0)
    inputs.k.sub_(10.0)
    require_correct(problem, inputs, launch())


def test_some_cases_are_split():
    for case in SPLIT:
        fields, config = CASES[case]
        _, launch = launch_of(problem_of(**fields), config)
        assert max(launch.schedule.num_parts) > 1, case


@pytest.mark.parametrize("number", range(16))
def test_agrees_on_problems_at_random(number):
    rng = random.Random(number)
    kv_len, num_kv_heads = rng.randint(1, LONGEST), rng.choice([1, 2])
    lengths = tuple(rng.randint(1, kv_len) for _ in range(2))
    problem = problem_of(
        kv_len=kv_len,
        q_len=rng.randint(1, min(kv_len, 16)),
        num_kv_heads=num_kv_heads,
        num_q_heads=num_kv_heads * rng.choice([1, 2, 3, 5, 8]),
        head_dim=rng.choice([64, 80, 128]),
        dtype=rng.choice(["float32", "float16", "bfloat16"]),
        causal=rng.random() < 0.8,
        window=rng.choice([None, None, rng.randint(1, kv_len)]),
        logits_soft_cap=rng.choice([None, None, 2.0]),
        kv_lens=rng.choice([None, lengths]),
        kv_dtype=rng.choice([None, None, "int8", "float8_e4m3"]),
        page_size=rng.choice([None, None, 1, 16]),
    )
    inputs, launch = launch_of(problem, rng.choice([SMALL, SWAPPED, TWO_KERNELS]))
    require_correct(problem, inputs, launch())


def test_the_implementation_reads_queries_and_cache_when_called():
    problem = problem_of(kv_len=90, dtype="bfloat16")
    inputs = make_inputs(problem, 0)
    prepared = get_impl("triton_decode").prepare(problem, inputs)
    for queries in make_queries(problem, 0, 2):
        inputs.q.copy_(queries)
        require_correct(problem, inputs, prepared())
    inputs.v.mul_(2)
    require_correct(problem, inputs, prepared())
    assert prepared.kv_cache_bytes == inputs.k.nbytes + inputs.v.nbytes
    assert prepared.kernel_config.startswith(
        "interpreted: layout=" if is_interpreted() else ("default: ", "tuned: ")
    )


def test_a_cache_that_is_part_of_a_longer_one_is_read_in_place():
    problem = problem_of(kv_len=50)
    inputs = make_inputs(replace(problem, kv_len=80), 0)
    part = AttentionInputs(inputs.q, inputs.k[:, :, :50], inputs.v[:, :, :50])
    require_correct(problem, part, get_impl("triton_decode").prepare(problem, part)())


def test_cache_bytes_count_scales_and_page_padding():
    problem = problem_of(batch_size=2, kv_len=17, page_size=16, kv_dtype="int8")
    prepared = get_impl("triton_decode").prepare(problem, make_inputs(problem, 0))
    assert prepared.kv_cache_bytes == 2 * (2 * 1 * 32) * (64 + 4)


def test_offsets_beyond_two_to_the_31st_element():
    """The keys seen are the last of a sequence so long; memory of the others is never touched on a CPU."""
    kv_len, window = 2**25 + 100, 40
    problem = problem_of(batch_size=1, kv_len=kv_len, window=window, dtype="bfloat16")
    short = replace(problem, kv_len=window)
    seen = make_inputs(short, 0)
    k, v = (torch.empty(1, 1, kv_len, 64, dtype=torch.bfloat16, device=DEVICE) for _ in range(2))
    k[:, :, -window:], v[:, :, -window:] = seen.k, seen.v
    inputs = AttentionInputs(seen.q, k, v)
    config = SMALL if is_interpreted() else tile_candidates(problem)[0]
    output = DecodeLaunch(problem, inputs, DecodeCache.of(problem, inputs), config)()
    require_correct(short, seen, output)


def test_every_candidate_gives_a_right_answer():
    problem = problem_of(batch_size=1, kv_len=130, dtype="bfloat16", q_len=2)
    inputs = make_inputs(problem, 0)
    for config in tile_candidates(problem):
        launch = DecodeLaunch(problem, inputs, DecodeCache.of(problem, inputs), config)
        require_correct(problem, inputs, launch())
