"""What a problem must cost: bytes of its cache, bytes moved, operations done. Imports no torch.

Keys and values are counted per key/value head, never per query head: that is what grouping saves
(Shazeer 2019, arXiv 1911.02150, section 3; Ainslie et al. 2023, arXiv 2305.13245, section 2.2).
"""

from __future__ import annotations

from gqabench.attention_impls.problem import AttentionProblem

SCALE_ITEMSIZE = 4
"""A quantised cache keeps one float32 scale per token, key/value head and tensor."""


def kv_cache_bytes_per_token(problem: AttentionProblem) -> int:
    """Return the cache bytes of one token in one layer.

    `2 * num_kv_heads * (head_dim * itemsize [+ scale])`.
    """
    scale_bytes = SCALE_ITEMSIZE if problem.kv_dtype is not None else 0
    return 2 * problem.num_kv_heads * (problem.head_dim * problem.kv_itemsize + scale_bytes)


def kv_cache_bytes(problem: AttentionProblem) -> int:
    """Return the cache bytes of one layer by the formula: every existing token, no padding.

    A sliding window does not shrink it: an implementation with a ring buffer holds less, and reports that
    itself.
    """
    num_tokens = sum(problem.kv_len_of(sequence) for sequence in range(problem.batch_size))
    return num_tokens * kv_cache_bytes_per_token(problem)


def kv_input_bytes(problem: AttentionProblem) -> int:
    """Return the bytes of the K and V passed to an implementation: in `dtype`, sequences at full length."""
    return (
        2 * problem.batch_size * problem.num_kv_heads * problem.kv_len * problem.head_dim * problem.itemsize
    )


def visible_pairs(problem: AttentionProblem) -> int:
    """Count the query-key pairs that are not masked, over the batch, for one head."""
    return sum(_visible_pairs_of(problem, problem.kv_len_of(b)) for b in range(problem.batch_size))


def visible_keys(problem: AttentionProblem) -> int:
    """Count the keys that at least one query sees, over the batch: what one pass over the cache reads."""
    total = 0
    for sequence in range(problem.batch_size):
        length = problem.kv_len_of(sequence)
        first_position = max(length - problem.q_len, 0)
        first_key = 0 if problem.window is None else max(first_position - problem.window + 1, 0)
        total += length - first_key
    return total


def model_flops(problem: AttentionProblem) -> int:
    """Count the operations of both matrix products: `4 * pairs * num_q_heads * head_dim`.

    A multiply-add is two operations. This is the convention of FlashAttention's benchmarks (Dao 2023, arXiv
    2307.08691, section 4.1), except that visible pairs are counted exactly where those halve a causal mask.
    The softmax is not counted.
    """
    return 4 * visible_pairs(problem) * problem.num_q_heads * problem.head_dim


def model_bytes(problem: AttentionProblem) -> int:
    """Return the bytes that must move at least once: visible K and V (and scales), queries, outputs."""
    cache = visible_keys(problem) * kv_cache_bytes_per_token(problem)
    activations = 2 * problem.batch_size * problem.num_q_heads * problem.q_len * problem.head_dim
    return cache + activations * problem.itemsize


def train_flops(problem: AttentionProblem) -> int:
    """Count the operations of a forward and a backward pass: 3.5 times those of the forward pass.

    The backward pass has five matrix products, the forward pass two; recomputing the probabilities is among
    the five. This is the convention of FlashAttention's benchmarks (Dao 2023, arXiv 2307.08691, section 4.1).
    """
    return model_flops(problem) * 7 // 2


def train_bytes(problem: AttentionProblem) -> int:
    """Return the bytes that must move at least once in a forward and a backward pass.

    Read: q, k, v and the outputs' gradient. Written: outputs, dq, dk and dv.
    """
    queries = problem.batch_size * problem.num_q_heads * problem.q_len * problem.head_dim
    keys = problem.num_kv_heads * visible_keys(problem) * problem.head_dim
    return 4 * (queries + keys) * problem.itemsize


def projection_parameters(problem: AttentionProblem, hidden_size: int | None = None) -> int:
    """Count the parameters of W_q, W_k, W_v and W_o.

    `2 * hidden_size * head_dim * (num_q_heads + num_kv_heads)`. `hidden_size` None means `num_q_heads *
    head_dim`.
    """
    width = problem.num_q_heads * problem.head_dim if hidden_size is None else hidden_size
    return 2 * width * problem.head_dim * (problem.num_q_heads + problem.num_kv_heads)


def layer_flops(problem: AttentionProblem, hidden_size: int | None = None) -> int:
    """Count the operations of an attention layer: two for each parameter and new token, plus attention.

    RoPE and the softmax are not counted.
    """
    num_new_tokens = problem.batch_size * problem.q_len
    return 2 * num_new_tokens * projection_parameters(problem, hidden_size) + model_flops(problem)


def layer_bytes(problem: AttentionProblem, hidden_size: int | None = None) -> int:
    """Return the bytes that must move at least once: parameters, hidden states, visible K and V.

    Hidden states are read and written. Of the visible tokens, past ones are read from the cache and new ones
    are written to it. Queries and the output of attention could stay on the chip, and do not count.
    """
    width = problem.num_q_heads * problem.head_dim if hidden_size is None else hidden_size
    weights = projection_parameters(problem, hidden_size) * problem.itemsize
    hidden_states = 2 * problem.batch_size * problem.q_len * width * problem.itemsize
    return weights + hidden_states + visible_keys(problem) * kv_cache_bytes_per_token(problem)


def _visible_pairs_of(problem: AttentionProblem, length: int) -> int:
    """Count the visible pairs of one sequence with `length` tokens."""
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
