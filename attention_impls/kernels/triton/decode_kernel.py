"""Split-KV decode for grouped queries: the rows of a whole group share one pass over K and V.

A program takes one work item (a run of keys of one sequence), one key/value head, and one block of rows. A
row is a query of the group: row `s * q_len + i` is query `i` of the group's head `s`, as in `[B, H, Q, D]`.

Tile suffixes, where the layout is fixed: M rows, N keys, D head_dim. The two layouts of the products:

- padded:  `S[M, N] = Q K^T`, `O[M, D] += P V`. M is padded to 16, the smallest that tensor cores take.
- swapped: `S^T[N, M] = K Q^T`, `O^T[D, M] += V^T P^T`. Keys and head_dim are the long sides, as the
  warp-group instruction wants its 64 rows; M may be 8.
"""

import triton
import triton.language as tl

from gqabench.attention_impls.kernels.triton.softmax_tiles import logits_of, merge_parts, softmax_step

ITEM_FIELDS = tl.constexpr(7)
"""Sequence, its length, its first visible key, first key and end of the item, part, number of parts."""


@triton.jit
def token_offsets(sequence, start, keys, is_key, table_ptr, table_stride, PAGE_SIZE: tl.constexpr):
    """Return where the tile's tokens are: (outermost index, index within it), by page or by sequence."""
    outer, inner = sequence, start + keys
    if PAGE_SIZE > 0:
        outer = tl.load(table_ptr + sequence.to(tl.int64) * table_stride + inner // PAGE_SIZE, is_key, 0)
        inner = inner % PAGE_SIZE
    return outer.to(tl.int64), inner


@triton.jit
def load_tile(
    ptr, outer, inner, is_key, outer_stride, token_stride,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, EVICTION: tl.constexpr,
):  # fmt: skip
    """Load keys or values `[N, D]` as stored, zero where there is no key."""
    dims = tl.arange(0, BLOCK_D)
    rows = outer * outer_stride + inner.to(tl.int64) * token_stride
    is_element = is_key[:, None]
    if BLOCK_D != HEAD_DIM:
        is_element = is_element & (dims[None, :] < HEAD_DIM)
    return tl.load(ptr + rows[:, None] + dims[None, :], is_element, 0.0, eviction_policy=EVICTION)


@triton.jit
def visible_keys(
    start, keys, rows, length, q_len, window,
    KEY_AXIS: tl.constexpr, LOOKS_BACK: tl.constexpr, HAS_WINDOW: tl.constexpr,
):  # fmt: skip
    """Return which keys of the tile the queries see by position."""
    tokens = tl.expand_dims(start + keys, 1 - KEY_AXIS)
    positions = tl.expand_dims(length - q_len + rows % q_len, KEY_AXIS)
    is_visible = tokens < length
    if LOOKS_BACK:
        is_visible = is_visible & (tokens <= positions)
    if HAS_WINDOW:
        is_visible = is_visible & (tokens > positions - window)
    return is_visible


@triton.jit
def merge_if_last(
    arrival_ptr, out_ptr, partial_ptr, log_sums_ptr, part_stride, num_parts, rows, num_rows,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Count this program in; the last one of a sequence, head and block of rows merges all parts.

    Parts are merged in their own order, whichever program is last, so results are the same from run to run.
    The count goes back to zero for the next call, so that a captured graph can be replayed.
    """
    tl.debug_barrier()  # all threads' stores come before the one thread's release
    num_earlier = tl.atomic_add(arrival_ptr, 1, sem="acq_rel", scope="gpu")
    if num_earlier == num_parts - 1:
        merge_parts(
            out_ptr, partial_ptr, log_sums_ptr, part_stride, num_parts, rows, num_rows,
            HEAD_DIM, BLOCK_D, BLOCK_M, 3,
        )  # fmt: skip
        tl.store(arrival_ptr, 0)


@triton.jit
def store_part(
    out, log_sum, elements, is_element, out_ptr, partial_ptr, log_sums_ptr, arrival_ptr,
    part, num_parts, part_stride, rows, num_rows,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, MERGES_HERE: tl.constexpr,
):  # fmt: skip
    """Store one part of a split sequence; the last program to arrive merges them.

    Slots of a sequence are consecutive: `[slot, head, row]` for the sums, and `[..., D]` for the outputs. The
    pointers are to the head's first row in the first slot.
    """
    this_row = part.to(tl.int64) * part_stride
    tl.store(partial_ptr + this_row * HEAD_DIM + elements, out, is_element)
    tl.store(log_sums_ptr + this_row + rows, log_sum, rows < num_rows)
    if MERGES_HERE:
        merge_if_last(
            arrival_ptr, out_ptr, partial_ptr, log_sums_ptr, part_stride, num_parts, rows, num_rows,
            HEAD_DIM, BLOCK_D, BLOCK_M,
        )  # fmt: skip


@triton.jit
def decode_kernel(
    q_ptr, k_ptr, v_ptr, k_scales_ptr, v_scales_ptr, out_ptr, partial_ptr, log_sums_ptr, arrivals_ptr,
    items_ptr, first_slots_ptr, table_ptr,
    inner_scale, outer_scale, num_rows, num_kv_heads, q_len, window, table_stride,
    k_outer_stride, k_head_stride, v_outer_stride, v_head_stride, token_stride,
    scale_outer_stride, scale_head_stride, scale_token_stride,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PAGE_SIZE: tl.constexpr, IS_QUANTISED: tl.constexpr, IS_SWAPPED: tl.constexpr, HAS_SOFT_CAP: tl.constexpr,
    LOOKS_BACK: tl.constexpr, HAS_WINDOW: tl.constexpr, ONE_QUERY: tl.constexpr, MERGES_HERE: tl.constexpr,
    EVICTION: tl.constexpr, PRECISION: tl.constexpr, IS_INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Attend from one block of rows of one key/value head to the keys of one work item."""
    KEY_AXIS: tl.constexpr = 0 if IS_SWAPPED else 1
    num_row_blocks = tl.cdiv(num_rows, BLOCK_M)
    row_block = tl.program_id(0) % num_row_blocks
    head = (tl.program_id(0) // num_row_blocks) % num_kv_heads
    item_ptr = items_ptr + tl.program_id(0) // num_row_blocks // num_kv_heads * ITEM_FIELDS
    sequence, length, first_key = tl.load(item_ptr), tl.load(item_ptr + 1), tl.load(item_ptr + 2)
    begin, end = tl.load(item_ptr + 3), tl.load(item_ptr + 4)
    part, num_parts = tl.load(item_ptr + 5), tl.load(item_ptr + 6)

    rows = row_block * BLOCK_M + tl.arange(0, BLOCK_M)
    dims, keys = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    group = (sequence * num_kv_heads + head).to(tl.int64)
    is_element = tl.expand_dims(rows < num_rows, KEY_AXIS) & tl.expand_dims(dims < HEAD_DIM, 1 - KEY_AXIS)
    elements = tl.expand_dims(rows, KEY_AXIS) * HEAD_DIM + tl.expand_dims(dims, 1 - KEY_AXIS)
    q = tl.load(q_ptr + group * num_rows * HEAD_DIM + elements, is_element, 0.0)
    # Triton's interpreter computes bfloat16 wrongly, so everything is float32 there.
    compute_dtype = tl.float32 if IS_INTERPRETED else q.dtype
    q = q.to(compute_dtype)
    head = head.to(tl.int64)
    k_ptr += head * k_head_stride
    v_ptr += head * v_head_stride
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    out = tl.zeros([BLOCK_D, BLOCK_M] if IS_SWAPPED else [BLOCK_M, BLOCK_D], tl.float32)

    is_key = (begin + keys >= first_key) & (begin + keys < end)
    outer, inner = token_offsets(sequence, begin, keys, is_key, table_ptr, table_stride, PAGE_SIZE)
    for start in tl.range(begin, end, BLOCK_N):
        is_key = (start + keys >= first_key) & (start + keys < end)
        if PAGE_SIZE:
            # Pages are looked up one tile ahead: otherwise Triton would wait for the table before fetching.
            is_next = start + BLOCK_N + keys < end
            next_outer, next_inner = token_offsets(
                sequence, start + BLOCK_N, keys, is_next, table_ptr, table_stride, PAGE_SIZE
            )
        else:
            outer, inner = token_offsets(sequence, start, keys, is_key, table_ptr, table_stride, PAGE_SIZE)
        k = load_tile(k_ptr, outer, inner, is_key, k_outer_stride, token_stride, HEAD_DIM, BLOCK_D, EVICTION)
        v = load_tile(v_ptr, outer, inner, is_key, v_outer_stride, token_stride, HEAD_DIM, BLOCK_D, EVICTION)
        k, v = k.to(compute_dtype), v.to(compute_dtype)
        if IS_SWAPPED:
            products = tl.dot(k, q, input_precision=PRECISION)
        else:
            products = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        if IS_QUANTISED:
            scales = (
                outer * scale_outer_stride
                + head * scale_head_stride
                + inner.to(tl.int64) * scale_token_stride
            )
            k_scales = tl.load(k_scales_ptr + scales, is_key, 0.0, eviction_policy=EVICTION)
            v_scales = tl.load(v_scales_ptr + scales, is_key, 0.0, eviction_policy=EVICTION)
            products *= tl.expand_dims(k_scales, 1 - KEY_AXIS)
        logits = logits_of(products, inner_scale, outer_scale, HAS_SOFT_CAP)
        is_visible = tl.expand_dims(is_key, 1 - KEY_AXIS)
        if not ONE_QUERY:
            is_visible = is_visible & visible_keys(
                start, keys, rows, length, q_len, window, KEY_AXIS, LOOKS_BACK, HAS_WINDOW
            )
        logits = tl.where(is_visible, logits, float("-inf"))
        weights, factor, row_max, row_sum = softmax_step(logits, row_max, row_sum, KEY_AXIS, not ONE_QUERY)
        if IS_QUANTISED:
            weights *= tl.expand_dims(v_scales, 1 - KEY_AXIS)
        out = out * tl.expand_dims(factor, KEY_AXIS)
        weights = weights.to(compute_dtype)
        if IS_SWAPPED:
            out = tl.dot(tl.trans(v), weights, out, input_precision=PRECISION)
        else:
            out = tl.dot(weights, v, out, input_precision=PRECISION)
        if PAGE_SIZE:
            outer, inner = next_outer, next_inner

    saw_none = row_sum == 0.0
    row_sum = tl.where(saw_none, 1.0, row_sum)
    out = out / tl.expand_dims(row_sum, KEY_AXIS)
    out_ptr += group * num_rows * HEAD_DIM
    if num_parts == 1:
        tl.store(out_ptr + elements, out.to(out_ptr.dtype.element_ty), is_element)
    else:
        first_row = (tl.load(first_slots_ptr + sequence).to(tl.int64) * num_kv_heads + head) * num_rows
        store_part(
            out, tl.where(saw_none, float("-inf"), row_max + tl.log2(row_sum)), elements, is_element,
            out_ptr, partial_ptr + first_row * HEAD_DIM, log_sums_ptr + first_row,
            arrivals_ptr + group * num_row_blocks + row_block,
            part, num_parts, num_kv_heads * num_rows, rows, num_rows, HEAD_DIM, BLOCK_D, BLOCK_M, MERGES_HERE,
        )  # fmt: skip


@triton.jit
def merge_kernel(
    out_ptr, partial_ptr, log_sums_ptr, first_slots_ptr, num_parts_ptr, num_rows, num_kv_heads,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """Merge the parts of some rows of one sequence and head, where there is more than one."""
    sequence, head = tl.program_id(0), tl.program_id(1)
    num_parts = tl.load(num_parts_ptr + sequence)
    if num_parts > 1:
        first_slot = tl.load(first_slots_ptr + sequence).to(tl.int64)
        first_row = (first_slot * num_kv_heads + head) * num_rows
        rows = tl.program_id(2) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        out_ptr += (sequence * num_kv_heads + head).to(tl.int64) * num_rows * HEAD_DIM
        merge_parts(
            out_ptr, partial_ptr + first_row * HEAD_DIM, log_sums_ptr + first_row, num_kv_heads * num_rows,
            num_parts, rows, num_rows, HEAD_DIM, BLOCK_D, BLOCK_ROWS, 3,
        )  # fmt: skip
