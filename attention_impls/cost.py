"""What a problem must cost: bytes of its cache, bytes moved, operations done. Imports no torch.

Keys and values are counted per key/value head, never per query head: that is what grouping saves
(Shazeer 2019, arXiv 1911.02150, section 3; Ainslie et al. 2023, arXiv 2305.13245, section 2.2).
"""

from __future__ import annotations

from gqabench.attention_impls.problem import AttentionProblem

SCALE_ITEMSIZE = 4
"""A quantised cache keeps one float32 scale per token, key/value head and tensor."""


def kv_cache_bytes_per_token(problem: AttentionProblem) -> int:
    """Cache bytes of one token in one layer: `2 * num_kv_heads * (head_dim * itemsize [+ scale])`."""
    scale_bytes = SCALE_ITEMSIZE if problem.kv_dtype is not None else 0
    return 2 * problem.num_kv_heads * (problem.head_dim * problem.kv_itemsize + scale_bytes)


def kv_cache_bytes(problem: AttentionProblem) -> int:
    """Cache bytes of one layer by the formula: every existing token of every sequence, no padding.

    A sliding window does not shrink it: an implementation with a ring buffer holds less and says so.
    """
    num_tokens = sum(problem.kv_len_of(sequence) for sequence in range(problem.batch_size))
    return num_tokens * kv_cache_bytes_per_token(problem)


def kv_input_bytes(problem: AttentionProblem) -> int:
    """Bytes of the K and V that an implementation is given: in `dtype`, every sequence at full length."""
    return (
        2 * problem.batch_size * problem.num_kv_heads * problem.kv_len * problem.head_dim * problem.itemsize
    )


def visible_pairs(problem: AttentionProblem) -> int:
    """Query-key pairs that are not masked, over the batch, for one head."""
    return sum(_visible_pairs_of(problem, problem.kv_len_of(b)) for b in range(problem.batch_size))


def visible_keys(problem: AttentionProblem) -> int:
    """Keys that at least one query sees, over the batch: what one pass over the cache must read."""
    total = 0
    for sequence in range(problem.batch_size):
        length = problem.kv_len_of(sequence)
        first_position = max(length - problem.q_len, 0)
        first_key = 0 if problem.window is None else max(first_position - problem.window + 1, 0)
        total += length - first_key
    return total


def model_flops(problem: AttentionProblem) -> int:
    """Multiply-adds of both matrix products, two operations each: `4 * pairs * num_q_heads * head_dim`.

    The convention of FlashAttention's benchmarks (Dao 2023, arXiv 2307.08691, section 4.1), with the
    visible pairs counted exactly where they halve for a causal mask. Softmax is not counted.
    """
    return 4 * visible_pairs(problem) * problem.num_q_heads * problem.head_dim


def model_bytes(problem: AttentionProblem) -> int:
    """Bytes that must move at least once: visible K and V (and scales), queries in, outputs out."""
    cache = visible_keys(problem) * kv_cache_bytes_per_token(problem)
    activations = 2 * problem.batch_size * problem.num_q_heads * problem.q_len * problem.head_dim
    return cache + activations * problem.itemsize


def train_flops(problem: AttentionProblem) -> int:
    """A forward and a backward pass: five matrix products beside the forward pass's two.

    So the convention of FlashAttention's benchmarks: 2.5 times the forward pass for the backward one, 3.5 for
    both (Dao 2023, arXiv 2307.08691, section 4.1). Recomputing the probabilities is among the five.
    """
    return model_flops(problem) * 7 // 2


def train_bytes(problem: AttentionProblem) -> int:
    """Bytes that move at least once: q, k, v and the outputs' gradient in; outputs, dq, dk and dv out."""
    queries = problem.batch_size * problem.num_q_heads * problem.q_len * problem.head_dim
    keys = problem.num_kv_heads * visible_keys(problem) * problem.head_dim
    return 4 * (queries + keys) * problem.itemsize


def projection_parameters(problem: AttentionProblem, hidden_size: int | None = None) -> int:
    """Weights of W_q, W_k, W_v and W_o: `2 * hidden_size * head_dim * (num_q_heads + num_kv_heads)`.

    `hidden_size` None means `num_q_heads * head_dim`.
    """
    width = problem.num_q_heads * problem.head_dim if hidden_size is None else hidden_size
    return 2 * width * problem.head_dim * (problem.num_q_heads + problem.num_kv_heads)


def layer_flops(problem: AttentionProblem, hidden_size: int | None = None) -> int:
    """Operations of an attention layer: two for each weight and new token, and those of attention.

    RoPE and the softmax are not counted.
    """
    num_new_tokens = problem.batch_size * problem.q_len
    return 2 * num_new_tokens * projection_parameters(problem, hidden_size) + model_flops(problem)


def layer_bytes(problem: AttentionProblem, hidden_size: int | None = None) -> int:
    """Bytes that must move at least once: weights, hidden states in and out, visible K and V.

    Of the visible tokens, past ones are read from the cache and new ones are written to it. Queries and the
    output of attention could stay on the chip, and do not count.
    """
    width = problem.num_q_heads * problem.head_dim if hidden_size is None else hidden_size
    weights = projection_parameters(problem, hidden_size) * problem.itemsize
    hidden_states = 2 * problem.batch_size * problem.q_len * width * problem.itemsize
    return weights + hidden_states + visible_keys(problem) * kv_cache_bytes_per_token(problem)


def _visible_pairs_of(problem: AttentionProblem, length: int) -> int:
    """Visible pairs of one sequence with `length` tokens."""
    if not problem.causal and problem.window is None:
        return problem.q_len * length
    last = length  # the last query sees min(length, window) keys, the one before it one fewer, and so on
    first = max(length - problem.q_len + 1, 1)
    if problem.window is None or problem.window >= last:
        return _sum_of_range(first, last)
    full = max(last - max(first, problem.window) + 1, 0)  # queries that see a whole window
    return full * problem.window + _sum_of_range(first, min(last, problem.window - 1))


def _sum_of_range(first: int, last: int) -> int:
    return (first + last) * (last - first + 1) // 2 if first <= last else 0
