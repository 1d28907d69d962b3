"""How large the rounding errors of one query row are, if each is independent of the others.

An output is `o = sum_j p_j v_j`. Let `u` be the unit roundoff of the dtype in which tensors are stored and
`w` that of float32, in which sums are formed. To first order (all squares are means over `head_dim`):

- a stored `p_j` is off by a relative error of size `u`, each key's its own: the variances add to `u^2 sum_j
  p_j^2 v_j^2`. This shrinks with the context as `o^2` does, which `sum_j p_j |v_j|` would not;
- a factor that all keys share (the normaliser) and the stored output are off by `u` too: `u^2 o^2`;
- a logit `x_j` that is off by `d_j` moves the output by `p_j d_j (v_j - o)`, since the softmax is
  normalised. Storing it costs `u |x_j|`. So does the exponential in float32, which scales by `log2 e`,
  subtracts the maximum and rounds: three more times `w |x_j|`. A kernel that scales and rounds q or k
  beforehand errs by `u X`, where `X` is the logit's typical size `scale |q| rms(k)`, however small this
  `x_j` came out. A sum of `head_dim` products in float32 errs by some `w sqrt(head_dim) X`, and the last
  one of thousands by thrice
  that; where `x_j` is large, so are its partial sums;
- a sum over `n` keys in float32 errs by `w sqrt(n)` of the size of its partial sums, in any order and with
  high probability (Higham and Mary 2019, SIAM J. Sci. Comput. 41(5), A2815).

With a quantised cache textbook code stores a dequantised K and V. Rounding `k_j` moves a logit by about
`u X`, and rounding `v_j` has the effect of rounding `p_j`: then both terms count twice.

Hence, in all, the variance of one element is about

    sum_j p_j^2 ((u^2 + (3 + 4 head_dim) w^2) x_j^2 + (u^2 + 8 head_dim w^2) X^2) (v_j - o)^2
        + (u^2 + n w^2) (o^2 + sum_j p_j^2 v_j^2)

The mean of so few squares as `head_dim` scatters: it is taken `1 + 8 / head_dim` times. Roundoff is a bound
and the typical error about half of it, so that the root is about twice the error that is seen.
"""

from __future__ import annotations

import torch

from gqabench.attention_impls.correctness.chunked_formula import FormulaChunk, key_chunks
from gqabench.attention_impls.dtypes import torch_dtype, unit_roundoff
from gqabench.attention_impls.problem import AttentionProblem


def row_noise(problem: AttentionProblem, chunk: FormulaChunk, output_ND: torch.Tensor) -> torch.Tensor:
    """Return the root of the variance above for each row of a chunk, `[N]`, in the chunk's dtype."""
    roundoff = unit_roundoff(torch_dtype(problem))
    float32_part = (unit_roundoff(torch.float32) / roundoff) ** 2  # w^2 / u^2
    squares_K = mean_squares(chunk.v)
    hidden_NK = chunk.logits == float("-inf")
    num_keys_N = len(squares_K) - hidden_NK.sum(-1)

    def spread(weights_NK: torch.Tensor) -> torch.Tensor:
        """Return `sum_j weights_j (v_j - o)^2`, `[N]`."""
        crossed_N = (chunk.weighted_sum(weights_NK) * output_ND).mean(-1)
        own_N = weights_NK.sum(-1) * output_ND.square().mean(-1)
        return (weights_NK @ squares_K - 2 * crossed_N + own_N).clamp(min=0)

    weights_NK = chunk.probs.square()
    num_roundings = 1 if problem.kv_dtype is None else 2
    sizes_N = output_ND.square().mean(-1) + num_roundings * (weights_NK @ squares_K)
    typical_N = typical_logit(problem, chunk).square() * spread(weights_NK)
    typical_N *= num_roundings + 8 * problem.head_dim * float32_part
    weights_NK *= chunk.logits.masked_fill(hidden_NK, 0).square_()
    logits_N = (1 + (3 + 4 * problem.head_dim) * float32_part) * spread(weights_NK)
    luck = 1 + 8 / problem.head_dim
    return roundoff * (luck * (logits_N + typical_N + (1 + float32_part * num_keys_N) * sizes_N)).sqrt()


def typical_logit(problem: AttentionProblem, chunk: FormulaChunk) -> torch.Tensor:
    """Return `X` of each row, `[N]`.

    It is the root mean square logit of random keys as large as those that the chunk sees, before any soft
    cap.
    """
    key_size = mean_squares(chunk.k).mean().sqrt() if len(chunk.k) else 0.0
    sizes_N: torch.Tensor = problem.scale * chunk.q.square().sum(-1).sqrt() * key_size
    return sizes_N


def mean_squares(kv_KD: torch.Tensor) -> torch.Tensor:
    """Return the mean square of each key or value, `[K]` in float32."""
    squares_K = torch.empty(len(kv_KD), device=kv_KD.device)
    for chunk in key_chunks(kv_KD):
        squares_K[chunk] = kv_KD[chunk].float().square().mean(-1)
    return squares_K
