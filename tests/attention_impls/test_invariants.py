"""What must hold of an output whatever the numbers are: masks hide, order and expansion do not matter.

On small problems drawn from the whole space, for the implementations that are PyTorch's own and not compiled.
"""

from dataclasses import replace

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from gqabench.attention_impls import AttentionInputs, AttentionProblem, get_impl
from gqabench.attention_impls.correctness.error_budget import error_budget, max_error, output_mismatch
from gqabench.attention_impls.correctness.reference import reference_attention
from gqabench.attention_impls.inputs import make_inputs

ROOM = 0.9
"""Of the budget: correct implementations keep well away from it."""

EAGER = (
    "reference", "repeat_kv", "repeat_kv_sdpa", "grouped_matmul", "blockwise", "paged_gather",
    "paged_grouped", "sliding_window", "folded_sdpa", "sdpa", "sdpa_flash", "sdpa_math",
)  # fmt: skip


def served(problem: AttentionProblem) -> list[str]:
    return [name for name in EAGER if not get_impl(name).unsupported_reasons(problem)]


@given(problem=st.from_type(AttentionProblem), seed=st.integers(0, 1000))
def test_all_agree_with_the_reference(problem, seed):
    inputs = make_inputs(problem, seed)
    reference = reference_attention(problem, inputs)
    budget = error_budget(problem, inputs, reference)
    for name in served(problem):
        output = get_impl(name).prepare(problem, inputs)()
        assert output_mismatch(problem, output) is None
        assert budget.excess(output, reference).error_ratio < ROOM, name


@given(problem=st.from_type(AttentionProblem))
def test_keys_past_kv_lens_do_not_matter(problem):
    assume(problem.is_ragged)
    inputs, other = make_inputs(problem, 0), make_inputs(problem, 1)
    for b, length in enumerate(problem.kv_lens):
        other.k[b, :, :length] = inputs.k[b, :, :length]
        other.v[b, :, :length] = inputs.v[b, :, :length]
    changed = AttentionInputs(inputs.q, other.k, other.v)
    for name in served(problem):
        impl = get_impl(name)
        assert torch.equal(impl.prepare(problem, inputs)(), impl.prepare(problem, changed)()), name


@given(problem=st.from_type(AttentionProblem), data=st.data())
def test_keys_before_every_window_do_not_matter(problem, data):
    assume(problem.q_len < problem.kv_len)
    num_unseen = data.draw(st.integers(1, problem.kv_len - problem.q_len))
    window = problem.kv_len - problem.q_len - num_unseen + 1
    problem = replace(problem, window=window, kv_lens=None)
    inputs, other = make_inputs(problem, 0), make_inputs(problem, 1)
    other.k[:, :, num_unseen:] = inputs.k[:, :, num_unseen:]
    other.v[:, :, num_unseen:] = inputs.v[:, :, num_unseen:]
    changed = AttentionInputs(inputs.q, other.k, other.v)
    for name in served(problem):
        impl = get_impl(name)
        assert torch.equal(impl.prepare(problem, inputs)(), impl.prepare(problem, changed)()), name


@given(problem=st.from_type(AttentionProblem), data=st.data())
def test_the_order_of_sequences_does_not_matter(problem, data):
    order = data.draw(st.permutations(range(problem.batch_size)))
    kv_lens = None if problem.kv_lens is None else tuple(problem.kv_lens[b] for b in order)
    permuted_problem = replace(problem, kv_lens=kv_lens)
    inputs = make_inputs(problem, 0)
    budget = error_budget(problem, inputs, reference_attention(problem, inputs))
    permuted_inputs = AttentionInputs(inputs.q[order], inputs.k[order], inputs.v[order])
    for name in served(problem):
        impl = get_impl(name)
        output = impl.prepare(problem, inputs)()
        permuted = impl.prepare(permuted_problem, permuted_inputs)()
        assert max_error(permuted, output[order].double()) <= budget.max_error, name


@given(problem=st.from_type(AttentionProblem))
def test_grouped_heads_are_multi_head_attention_with_equal_heads(problem):
    expanded_problem = replace(problem, num_kv_heads=problem.num_q_heads)
    inputs = make_inputs(problem, 0)
    budget = error_budget(problem, inputs, reference_attention(problem, inputs))
    heads = torch.arange(problem.num_q_heads) // problem.group_size
    expanded = AttentionInputs(inputs.q, inputs.k[:, heads], inputs.v[:, heads])
    for name in served(problem):
        impl = get_impl(name)
        grouped_output = impl.prepare(problem, inputs)()
        expanded_output = impl.prepare(expanded_problem, expanded)()
        assert max_error(grouped_output, expanded_output.double()) <= 2 * budget.max_error, name


@given(problem=st.from_type(AttentionProblem), data=st.data())
def test_the_last_query_of_a_chunk_is_a_decode_step(problem, data):
    """Bottom-right alignment: the last query sees the same, however many queries stand before it."""
    assume(problem.q_len > 1)
    name = data.draw(st.sampled_from(served(problem)))
    inputs = make_inputs(problem, 0)
    budget = error_budget(problem, inputs, reference_attention(problem, inputs))
    decode = AttentionInputs(inputs.q[:, :, -1:].contiguous(), inputs.k, inputs.v)
    output = get_impl(name).prepare(problem, inputs)()
    step = get_impl(name).prepare(replace(problem, q_len=1), decode)()
    assert max_error(output[:, :, -1:], step.double()) <= 2 * budget.max_error
