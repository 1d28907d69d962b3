"""Causal prefill and extend for grouped queries: a block of rows holds all heads of the group.

Row `i * group_size + s` is query `i` of the group's head `s`. So the rows of a block sit at few positions: a
tile of K and V serves the whole group, and little of a causal block is masked.
"""

import triton
import triton.language as tl

from gqabench.attention_impls.kernels.triton.softmax_tiles import logits_of, softmax_step


@triton.jit
def attend_keys(
    begin, end, q, out, row_max, row_sum, k_ptr, v_ptr, token_stride, length, positions, window,
    inner_scale, outer_scale,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, HAS_SOFT_CAP: tl.constexpr,
    LOOKS_BACK: tl.constexpr, HAS_WINDOW: tl.constexpr, IS_MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Run the online softmax over some keys. Where `IS_MASKED` is false, every row sees all of them."""
    dims, keys = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    for start in tl.range(begin, end, BLOCK_N):
        tokens = start + keys
        is_element = dims[None, :] < HEAD_DIM
        if IS_MASKED:
            is_element = is_element & (tokens < length)[:, None]
        offsets = tokens.to(tl.int64)[:, None] * token_stride + dims[None, :]
        if IS_MASKED or BLOCK_D != HEAD_DIM:
            k, v = tl.load(k_ptr + offsets, is_element, 0.0), tl.load(v_ptr + offsets, is_element, 0.0)
        else:
            k, v = tl.load(k_ptr + offsets), tl.load(v_ptr + offsets)
        k, v = k.to(q.dtype), v.to(q.dtype)
        products = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        logits = logits_of(products, inner_scale, outer_scale, HAS_SOFT_CAP)
        if IS_MASKED:
            is_visible = (tokens < length)[None, :]
            if LOOKS_BACK:
                is_visible = is_visible & (tokens[None, :] <= positions[:, None])
            if HAS_WINDOW:
                is_visible = is_visible & (tokens[None, :] > positions[:, None] - window)
            logits = tl.where(is_visible, logits, float("-inf"))
        weights, factor, row_max, row_sum = softmax_step(logits, row_max, row_sum, 1, IS_MASKED)
        out = tl.dot(weights.to(q.dtype), v, out * factor[:, None], input_precision=PRECISION)
    return out, row_max, row_sum


@triton.jit
def prefill_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lengths_ptr,
    inner_scale, outer_scale, q_len, group_size, num_kv_heads, window,
    k_outer_stride, k_head_stride, v_outer_stride, v_head_stride, token_stride,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_SOFT_CAP: tl.constexpr, LOOKS_BACK: tl.constexpr, HAS_WINDOW: tl.constexpr, PRECISION: tl.constexpr,
    IS_INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Attend from one block of rows of one key/value head to all keys that they see."""
    num_rows = q_len * group_size
    # Heads of all sequences side by side, and the last rows first: under a causal mask they take longest.
    num_blocks = tl.cdiv(num_rows, BLOCK_M)
    num_groups = tl.num_programs(0) // num_blocks
    group = tl.program_id(0) % num_groups
    first_row = (num_blocks - 1 - tl.program_id(0) // num_groups) * BLOCK_M
    sequence, head = (group // num_kv_heads).to(tl.int64), (group % num_kv_heads).to(tl.int64)
    length = tl.load(lengths_ptr + sequence)

    rows, dims = first_row + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    queries = rows // group_size
    positions = length - q_len + queries
    elements = ((rows % group_size) * q_len + queries).to(tl.int64)[:, None] * HEAD_DIM + dims[None, :]
    is_element = (rows < num_rows)[:, None] & (dims < HEAD_DIM)[None, :]
    group_offset = group.to(tl.int64) * num_rows * HEAD_DIM
    q = tl.load(q_ptr + group_offset + elements, is_element, 0.0)
    # Triton's interpreter computes bfloat16 wrongly, so everything is float32 there.
    q = q.to(tl.float32) if IS_INTERPRETED else q
    k_ptr += sequence * k_outer_stride + head * k_head_stride
    v_ptr += sequence * v_outer_stride + head * v_head_stride
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    out = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    first_position = length - q_len + first_row // group_size
    last_position = length - q_len + (tl.minimum(first_row + BLOCK_M, num_rows) - 1) // group_size
    begin, all_see_from, all_see_to, end = 0, 0, length // BLOCK_N * BLOCK_N, length
    if LOOKS_BACK:
        all_see_to = tl.maximum(first_position + 1, 0) // BLOCK_N * BLOCK_N
        end = tl.minimum(tl.maximum(last_position + 1, 0), length)
    if HAS_WINDOW:
        begin = tl.maximum(first_position - window + 1, 0) // BLOCK_N * BLOCK_N
        all_see_from = tl.cdiv(tl.maximum(last_position - window + 1, 0), BLOCK_N) * BLOCK_N
        all_see_to = tl.maximum(all_see_to, all_see_from)
        out, row_max, row_sum = attend_keys(
            begin, tl.minimum(all_see_from, end), q, out, row_max, row_sum, k_ptr, v_ptr, token_stride,
            length, positions, window, inner_scale, outer_scale,
            HEAD_DIM, BLOCK_D, BLOCK_N, HAS_SOFT_CAP, LOOKS_BACK, HAS_WINDOW, True, PRECISION,
        )  # fmt: skip
    out, row_max, row_sum = attend_keys(
        all_see_from, all_see_to, q, out, row_max, row_sum, k_ptr, v_ptr, token_stride, length,
        positions, window, inner_scale, outer_scale,
        HEAD_DIM, BLOCK_D, BLOCK_N, HAS_SOFT_CAP, LOOKS_BACK, HAS_WINDOW, False, PRECISION,
    )  # fmt: skip
    out, row_max, row_sum = attend_keys(
        all_see_to, end, q, out, row_max, row_sum, k_ptr, v_ptr, token_stride, length,
        positions, window, inner_scale, outer_scale,
        HEAD_DIM, BLOCK_D, BLOCK_N, HAS_SOFT_CAP, LOOKS_BACK, HAS_WINDOW, True, PRECISION,
    )  # fmt: skip
    out = out / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    tl.store(out_ptr + group_offset + elements, out.to(out_ptr.dtype.element_ty), is_element)
