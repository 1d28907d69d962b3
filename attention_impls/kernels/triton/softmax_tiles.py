"""Device code that both kernels share: logits of a tile, the online softmax, the merge of split results.

Logits are in units of log2, so that the softmax needs only `exp2`. A tile of logits has its keys along
`KEY_AXIS` and its rows along the other axis; accumulators have their rows along the same axis as the logits.
"""

import triton
import triton.language as tl


@triton.jit
def exact_tanh(x):
    """Compute `tanh` to a few roundoffs of float32, which a difference of exponentials loses near zero."""
    square = x * x
    # The Taylor series up to x^9: below 1/4 what is left out is under 1e-8 of the result.
    near_zero = x * (
        1.0 + square * (-1 / 3 + square * (2 / 15 + square * (-17 / 315 + square * (62 / 2835))))
    )
    decay = tl.exp2(-2.8853900817779268 * tl.abs(x))  # exp(-2 |x|)
    size = (1.0 - decay) / (1.0 + decay)
    return tl.where(square < 0.0625, near_zero, tl.where(x < 0, -size, size))


@triton.jit
def logits_of(products, inner_scale, outer_scale, HAS_SOFT_CAP: tl.constexpr):
    """Turn products of queries and keys into logits in units of log2; the scales hold all constants."""
    logits = products * inner_scale
    if HAS_SOFT_CAP:
        logits = exact_tanh(logits) * outer_scale
    return logits


@triton.jit
def softmax_step(logits, row_max, row_sum, KEY_AXIS: tl.constexpr, MAY_SEE_NONE: tl.constexpr):
    """Run one tile of the online softmax: (weights, factor of what was accumulated, new maxima, new sums)."""
    new_max = tl.maximum(row_max, tl.max(logits, KEY_AXIS))
    # A row that has seen no key yet: (-inf) - (-inf) would be NaN.
    base = tl.where(new_max == float("-inf"), 0.0, new_max) if MAY_SEE_NONE else new_max
    weights = tl.exp2(logits - tl.expand_dims(base, KEY_AXIS))
    factor = tl.exp2(row_max - base)
    return weights, factor, new_max, row_sum * factor + tl.sum(weights, KEY_AXIS)


@triton.jit
def merge_parts(
    out_ptr,
    partial_ptr,
    log_sums_ptr,
    part_stride,
    num_parts,
    rows,
    num_rows,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """Weight the parts of some rows by their sums, in the order of the parts, and write the output.

    `part_stride` is in rows. A row that saw no key in any part is zero.
    """
    dims = tl.arange(0, BLOCK_D)
    is_row = rows < num_rows
    is_element = is_row[:, None] & (dims[None, :] < HEAD_DIM)
    offsets = rows[:, None] * HEAD_DIM + dims[None, :]
    merged = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    row_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_ROWS], tl.float32)
    for _ in tl.range(0, num_parts, num_stages=NUM_STAGES):
        # .cg: other programs wrote these, and this one may have stale copies in its L1.
        log_sum = tl.load(log_sums_ptr + rows, is_row, float("-inf"), cache_modifier=".cg")
        part_out = tl.load(partial_ptr + offsets, is_element, 0.0, cache_modifier=".cg")
        log_sums_ptr += part_stride
        partial_ptr += part_stride * HEAD_DIM
        new_max = tl.maximum(row_max, log_sum)
        base = tl.where(new_max == float("-inf"), 0.0, new_max)
        factor, weight = tl.exp2(row_max - base), tl.exp2(log_sum - base)
        merged = merged * factor[:, None] + part_out * weight[:, None]
        row_sum = row_sum * factor + weight
        row_max = new_max
    merged = merged / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    tl.store(out_ptr + offsets, merged.to(out_ptr.dtype.element_ty), is_element)
