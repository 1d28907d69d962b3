"""What finds a wrong edge key in an output: against the formula, one edge, row and head at a time."""

import math

import pytest
import torch

from gqabench.attention_impls import AttentionProblem
from gqabench.attention_impls.correctness import edge_keys
from gqabench.attention_impls.correctness.chunked_formula import read_back
from gqabench.attention_impls.correctness.edge_keys import EDGES, EdgeKeys
from gqabench.attention_impls.correctness.textbook import textbook_pass
from gqabench.attention_impls.inputs import make_inputs


def deviation(
    problem: AttentionProblem,
    keys: EdgeKeys,
    place: tuple[int, int, int],
    errors_HD: torch.Tensor,
    noises_H: torch.Tensor,
) -> float:
    """Project the errors of one row onto one edge key, with the weights of a matched filter."""
    edge, sequence, row = place
    position = int(keys.position[edge, sequence, row])
    found = noise2_of_sum = 0.0
    for head in range(problem.num_q_heads):
        group, head_in_group = divmod(head, problem.group_size)
        value_D = read_back(keys.v[sequence, group, position][None], problem.kv_dtype)[0].double()
        n = head_in_group * problem.q_len + row
        share = float(keys.share[edge, sequence, group, n])
        share_noise = float(keys.share_noise[edge, sequence, group, n])
        length2 = float(value_D.square().sum())
        noise2 = float(noises_H[head]) ** 2 + share_noise**2 * length2
        weight = share / noise2
        found += weight * float(errors_HD[head] @ value_D)
        noise2_of_sum += weight**2 * length2 * noise2
    return abs(found) / math.sqrt(noise2_of_sum) if noise2_of_sum else 0.0


@pytest.mark.parametrize("chunk_elements", [2**23, 1], ids=["all rows at once", "one row at a time"])
@pytest.mark.parametrize("kv_dtype", [None, "int8"])
def test_the_largest_deviations_are_those_of_the_formula(make_problem, monkeypatch, kv_dtype, chunk_elements):
    problem = make_problem(
        q_len=5, kv_len=30, window=9, kv_lens=(30, 11), num_q_heads=6, num_kv_heads=2, kv_dtype=kv_dtype
    )
    keys = textbook_pass(problem, make_inputs(problem, 0)).edges
    generator = torch.Generator().manual_seed(0)
    noise_BHR = torch.rand(2, 6, 5, generator=generator, dtype=torch.float64)
    error_BHRD = torch.randn(2, 6, 5, problem.head_dim, generator=generator, dtype=torch.float64)
    monkeypatch.setattr(edge_keys, "MAX_CHUNK_ELEMENTS", chunk_elements)
    filters = keys.filters(noise_BHR)
    for sequence in range(2):
        found = filters.largest_deviations(sequence, error_BHRD[sequence])
        expected = {
            name: max(
                deviation(
                    problem,
                    keys,
                    (edge, sequence, row),
                    error_BHRD[sequence, :, row],
                    noise_BHR[sequence, :, row],
                )
                for row in range(problem.q_len)
            )
            for edge, name in enumerate(EDGES)
        }
        assert found == pytest.approx(expected, rel=1e-9)
        assert all(value > 0 for name, value in expected.items() if name != EDGES[3])
