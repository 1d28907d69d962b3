"""What expanding K and V costs, in bytes that a call allocates."""

import pytest
import torch

from gqabench.attention_impls import get_impl
from gqabench.attention_impls.inputs import make_inputs
from gqabench.attention_impls.parts.formulas.expansion import expand_kv


def test_expansion_repeats_each_head_for_its_group():
    kv = torch.arange(2 * 3).view(1, 2, 3, 1).float()
    assert expand_kv(kv, 2)[0, :, :, 0].tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]]
    assert expand_kv(kv, 1) is kv


@pytest.mark.parametrize("group_size", [2, 4, 8])
def test_expansion_allocates_what_grouping_saved(make_problem, profile_call, group_size):
    """`repeat_kv` copies K and V to `group_size` times their bytes; `grouped_matmul` holds only logits."""
    problem = make_problem(kv_len=1024, num_q_heads=2 * group_size, num_kv_heads=2, head_dim=64)
    inputs = make_inputs(problem, 0)
    cache_bytes = inputs.k.nbytes + inputs.v.nbytes
    peaks = {
        name: profile_call(get_impl(name).prepare(problem, inputs)).peak_bytes
        for name in ("repeat_kv", "repeat_kv_sdpa", "grouped_matmul", "sdpa_flash", "folded_sdpa")
    }
    logits_bytes = problem.batch_size * problem.num_q_heads * problem.kv_len * 4
    assert group_size * cache_bytes <= peaks["repeat_kv"] <= group_size * cache_bytes + 6 * logits_bytes
    assert group_size * cache_bytes <= peaks["repeat_kv_sdpa"]
    assert peaks["grouped_matmul"] <= 6 * logits_bytes < cache_bytes * group_size / 2
    assert peaks["sdpa_flash"] < cache_bytes / 2
    assert peaks["folded_sdpa"] < cache_bytes / 2


def test_without_groups_nothing_is_copied(make_problem, profile_call):
    problem = make_problem(kv_len=1024, num_q_heads=4, num_kv_heads=4, head_dim=64)
    inputs = make_inputs(problem, 0)
    peak_bytes = profile_call(get_impl("repeat_kv").prepare(problem, inputs)).peak_bytes
    assert peak_bytes < (inputs.k.nbytes + inputs.v.nbytes) / 2
