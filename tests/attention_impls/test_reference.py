"""The float64 reference against a plain loop over heads and queries, and its chunks against the whole."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gqabench.attention_impls import AttentionInputs, AttentionProblem, get_impl
from gqabench.attention_impls.correctness import chunked_formula as chunked_formula_module
from gqabench.attention_impls.correctness.reference import reference_attention
from gqabench.attention_impls.inputs import make_inputs


def looped_attention(problem: AttentionProblem, inputs: AttentionInputs) -> torch.Tensor:
    """One query at a time, in float64, keys picked by the words of `AttentionProblem`."""
    output = torch.zeros(inputs.q.shape, dtype=torch.float64)
    group_size = problem.num_q_heads // problem.num_kv_heads
    for b in range(problem.batch_size):
        length = problem.kv_len if problem.kv_lens is None else problem.kv_lens[b]
        for h in range(problem.num_q_heads):
            k, v = inputs.k[b, h // group_size].double(), inputs.v[b, h // group_size].double()
            for i in range(problem.q_len):
                position = length - problem.q_len + i
                looks_back = problem.causal or problem.window is not None
                end = min(position + 1, length) if looks_back else length
                first = 0 if problem.window is None else max(position - problem.window + 1, 0)
                if end <= first:
                    continue
                scale = problem.softmax_scale or 1 / math.sqrt(problem.head_dim)
                logits = (k[first:end] * inputs.q[b, h, i].double()).sum(-1) * scale
                if problem.logits_soft_cap is not None:
                    logits = problem.logits_soft_cap * torch.tanh(logits / problem.logits_soft_cap)
                weights = torch.exp(logits - logits.max())
                output[b, h, i] = (weights[:, None] * v[first:end]).sum(0) / weights.sum()
    return output


@given(problem=st.from_type(AttentionProblem), seed=st.integers(0, 2**20))
def test_reference_is_the_loop(problem, seed):
    inputs = make_inputs(problem, seed)
    torch.testing.assert_close(
        reference_attention(problem, inputs), looped_attention(problem, inputs), rtol=1e-12, atol=1e-13
    )


@given(problem=st.from_type(AttentionProblem), chunk=st.integers(1, 200), data=st.data())
def test_chunks_and_selected_rows_are_parts_of_the_whole(problem, chunk, data):
    inputs = make_inputs(problem, 0)
    whole = reference_attention(problem, inputs)
    rows = torch.tensor(data.draw(st.lists(st.integers(0, problem.q_len - 1), min_size=1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked_formula_module, "MAX_CHUNK_ELEMENTS", chunk)
        selected = reference_attention(problem, inputs, rows)
    torch.testing.assert_close(selected, whole[:, :, rows], rtol=1e-12, atol=1e-13)


def test_a_hand_worked_case(make_problem):
    """One query (1, 0), keys (0, 0) and (2, 0), scale ln(3) / 2: logits 0 and ln 3, weights 1/4 and 3/4."""
    problem = make_problem(
        batch_size=1, kv_len=2, num_q_heads=1, num_kv_heads=1, head_dim=2, softmax_scale=math.log(3) / 2
    )
    inputs = AttentionInputs(
        q=torch.tensor([[[[1.0, 0.0]]]]),
        k=torch.tensor([[[[0.0, 0.0], [2.0, 0.0]]]]),
        v=torch.tensor([[[[4.0, 8.0], [0.0, 4.0]]]]),
    )
    assert reference_attention(problem, inputs).flatten().tolist() == pytest.approx([1.0, 5.0], rel=1e-12)


def test_query_heads_of_a_group_read_their_own_key_value_head(make_problem):
    problem = make_problem(batch_size=1, kv_len=1, num_q_heads=6, num_kv_heads=2)
    inputs = make_inputs(problem, 0)
    output = reference_attention(problem, inputs)
    for head in range(6):
        assert torch.equal(output[0, head], inputs.v[0, head // 3].double())


def test_rows_that_see_no_key_are_zero(make_problem):
    problem = make_problem(q_len=5, kv_len=8, kv_lens=(8, 2))
    output = reference_attention(problem, make_inputs(problem, 0))
    assert bool((output[1, :, :3] == 0).all())
    assert bool((output[1, :, 3:] != 0).all())
    assert bool((output[0] != 0).all())


def test_garbage_past_kv_lens_is_never_read(make_problem):
    problem = make_problem(kv_lens=(3, 8))
    inputs = make_inputs(problem, 0)
    expected = reference_attention(problem, inputs)
    inputs.k[0, :, 3:] = torch.nan
    inputs.v[0, :, 3:] = torch.inf
    assert torch.equal(reference_attention(problem, inputs), expected)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(
            {"q_len": 1024, "kv_len": 2048, "num_q_heads": 5, "num_kv_heads": 1, "head_dim": 16},
            id="prefill",
        ),
        pytest.param(
            {"q_len": 1, "kv_len": 2**19, "num_q_heads": 17, "num_kv_heads": 1}, id="one long cache"
        ),
    ],
)
def test_temporaries_stay_below_eight_chunks(make_problem, profile_call, monkeypatch, fields):
    """512 MiB with chunks of 64 MiB; here all sizes are an eighth."""
    assert chunked_formula_module.MAX_CHUNK_ELEMENTS * 8 == 64 * 2**20
    monkeypatch.setattr(chunked_formula_module, "MAX_CHUNK_ELEMENTS", 2**20)
    problem = make_problem(**{"batch_size": 1, "dtype": "bfloat16"} | fields)
    inputs = make_inputs(problem, 0)
    peak_bytes = profile_call(lambda: reference_attention(problem, inputs)).peak_bytes
    assert peak_bytes < 64 * 2**20
    logits_bytes = problem.num_q_heads * problem.q_len * problem.kv_len * 8
    assert logits_bytes > 64 * 2**20  # the problem is large enough to tell


def test_the_implementation_gives_the_reference_in_the_problems_dtype(make_problem):
    problem = make_problem(dtype="bfloat16")
    inputs = make_inputs(problem, 0)
    prepared = get_impl("reference").prepare(problem, inputs)
    assert torch.equal(prepared(), reference_attention(problem, inputs).to(torch.bfloat16))


def test_group_size_one_is_multi_head_attention(make_problem):
    problem = make_problem(num_q_heads=3, num_kv_heads=3, q_len=8)
    inputs = make_inputs(problem, 0)
    expected = torch.nn.functional.scaled_dot_product_attention(
        inputs.q.double(), inputs.k.double(), inputs.v.double(), is_causal=True
    )
    torch.testing.assert_close(reference_attention(problem, inputs), expected)
