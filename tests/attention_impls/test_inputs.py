"""Inputs are seeded, random everywhere, and no wrong index reads what the right one would."""

import math
import time

import pytest
import torch

from gqabench.attention_impls.inputs import BLOCK_LENGTH, Stream, make_inputs, make_queries, problem_normals


def test_shapes_dtypes_and_layout(make_problem):
    problem = make_problem(q_len=3, dtype="bfloat16")
    inputs = make_inputs(problem, seed=0)
    assert inputs.q.shape == (2, 4, 3, 16)
    assert inputs.k.shape == inputs.v.shape == (2, 2, 8, 16)
    assert all(t.dtype == torch.bfloat16 and t.is_contiguous() for t in (inputs.q, inputs.k, inputs.v))
    assert make_queries(problem, seed=0, count=5).shape == (5, 2, 4, 3, 16)


def test_a_seed_fixes_the_contents(make_problem):
    problem = make_problem()
    first, second, other = make_inputs(problem, 7), make_inputs(problem, 7), make_inputs(problem, 8)
    for name in ("q", "k", "v"):
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert not bool((getattr(first, name) == getattr(other, name)).any())
    assert torch.equal(make_queries(problem, 7, 2), make_queries(problem, 7, 2))


def test_streams_and_neighbouring_seeds_differ(make_problem):
    problem = make_problem()
    draws = [problem_normals(problem, (100,), seed, stream) for seed in range(3) for stream in Stream]
    assert len({tuple(draw.tolist()) for draw in draws}) == 3 * len(Stream)


def test_query_variants_differ_from_each_other_and_from_the_first_queries(make_problem):
    problem = make_problem()
    variants = [make_inputs(problem, 0).q, *make_queries(problem, 0, 3)]
    for i, variant in enumerate(variants):
        assert all(not bool((variant == other).any()) for other in variants[:i])


def test_values_are_standard_normal_past_kv_lens_too(make_problem):
    problem = make_problem(kv_len=512, num_kv_heads=4, kv_lens=(1, 1))
    for padding in (make_inputs(problem, 0).k[:, :, 1:], make_inputs(problem, 0).v[:, :, 1:]):
        assert bool(torch.isfinite(padding).all())
        assert float(padding.mean()) == pytest.approx(0, abs=0.02)
        assert float(padding.std()) == pytest.approx(1, abs=0.02)


def test_the_block_length_is_the_largest_prime_below_2_to_the_24():
    def is_prime(number: int) -> bool:
        return all(number % factor for factor in range(2, math.isqrt(number) + 1))

    assert is_prime(BLOCK_LENGTH)
    assert not any(is_prime(number) for number in range(BLOCK_LENGTH + 1, 2**24))


def test_large_tensors_repeat_a_block_out_of_step_with_every_stride(make_problem):
    """134 MB a tensor: quick, and rows, heads and sequences at the same place differ."""
    problem = make_problem(
        batch_size=2, kv_len=2**14, num_kv_heads=8, num_q_heads=8, head_dim=128, dtype="bfloat16"
    )
    started = time.perf_counter()
    k = make_inputs(problem, 0).k
    assert time.perf_counter() - started < 5
    flat = k.flatten()
    assert torch.equal(flat[: len(flat) - BLOCK_LENGTH], flat[BLOCK_LENGTH:])
    for one, other in ((k[0], k[1]), (k[:, 0], k[:, 4]), (k[:, :, 0], k[:, :, 2**13])):
        assert (
            float((one == other).float().mean()) < 0.02
        )  # bfloat16 has few values: some are equal by chance


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_contents_are_the_same_on_every_device(make_problem):
    on_cpu, on_gpu = (
        make_inputs(make_problem(device=device, dtype="bfloat16"), 3) for device in ("cpu", "cuda")
    )
    assert torch.equal(on_cpu.k, on_gpu.k.cpu())
