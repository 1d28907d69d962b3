"""The ways to build the decode kernel for a problem: the candidates that tuning chooses from."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gqabench.attention_impls.problem import AttentionProblem

LAYOUTS = ("padded", "swapped")

MIN_BLOCK_ROWS = 16
"""`mma.sync.m16n8k16` takes no fewer rows in the padded layout. In the swapped one the warp-group instruction
takes 8, but Triton 3.7 then does without it, and without `cp.async` for V."""


@dataclass(frozen=True)
class DecodeConfig:
    """One way to build and launch the decode kernel."""

    layout: str
    """`padded` or `swapped`: see `decode_kernel`"""
    block_n: int
    """Keys of a tile"""
    num_warps: int
    num_stages: int
    """Stages of the pipeline. With 3, one tile is loaded while another is computed with; with 2, none is."""
    programs_per_sm: int
    """Programs that the schedule assumes a processor runs at a time"""
    merge: str
    """`last_arrival`, in the same launch, or `second_kernel`"""


def num_rows_of(problem: AttentionProblem) -> int:
    """Count the queries that share one key/value head: those of a whole group, and of all new tokens."""
    return problem.group_size * problem.q_len


def block_rows_of(problem: AttentionProblem) -> int:
    """Return the rows of one program, a power of two.

    Queries beyond it share K and V only through the L2. The accumulator of more rows, float32 `[rows,
    head_dim]`, does not fit in the registers.
    """
    if problem.dtype == "float32":
        return MIN_BLOCK_ROWS
    most = 128 if block_dims_of(problem) <= 128 else 64
    return min(max(power_of_two_from(num_rows_of(problem)), MIN_BLOCK_ROWS), most)


def block_dims_of(problem: AttentionProblem) -> int:
    """Return the columns of a tile: `head_dim` rounded up to a power of two, at least 16."""
    return max(power_of_two_from(problem.head_dim), 16)


def power_of_two_from(number: int) -> int:
    """Return the smallest power of two that is not smaller than a positive number."""
    return 1 << (number - 1).bit_length()


def tile_candidates(problem: AttentionProblem) -> list[DecodeConfig]:
    """Return layouts, tiles and pipelines worth trying; the first is the default where nothing is timed.

    A tile is sized by its bytes: about 32 KiB of keys and values in flight fill an SM of an H100 (see
    docs/kernels.md). All of these compile for sm_90 without spilling registers, except for a quantised cache
    of more than 128 columns under float32 queries: Triton 3.7 widens its whole tile at once.
    """
    is_quantised, num_rows, is_wide = (
        problem.kv_dtype is not None,
        block_rows_of(problem),
        block_dims_of(problem) > 128,
    )
    if problem.dtype == "float32":  # multiply-adds: no tensor core has this precision
        shapes = [("padded", 16, w, s) for w in ((8,) if is_quantised else (8, 4)) for s in (3, 2)]
    elif num_rows >= 64:
        swapped = [("swapped", 64, 8, 2)] if num_rows == 64 and not is_wide else []
        deeper = [("padded", 32, 8, 3), *([] if is_wide else [("padded", 32, 8, 4)])]
        shapes = [*deeper, ("padded", 64, 8, 2), *swapped, ("padded", 32, 8, 2)]
    elif is_wide:
        num_warps = 4 if num_rows == 16 else 8
        swapped = [] if is_quantised else [("swapped", 64, num_warps, 2)]
        narrow = 32 if num_rows == 16 else 64
        shapes = [("padded", narrow, num_warps, 3), *swapped, ("padded", narrow, num_warps, 2)]
    else:
        tiles = ((64, 3), (64, 2)) if is_quantised else ((64, 3), (64, 2), (64, 4), (128, 2))
        shapes = [(layout, n, 4, s) for layout in LAYOUTS for n, s in tiles]
    return [DecodeConfig(*shape, programs_per_sm=2, merge="last_arrival") for shape in shapes]


def launch_candidates(config: DecodeConfig) -> list[DecodeConfig]:
    """Return the same kernel with other numbers of splits."""
    return [replace(config, programs_per_sm=number) for number in (1, 2, 3, 4)]


def merge_candidates(config: DecodeConfig) -> list[DecodeConfig]:
    """Return the same kernel and splits, merged in the same launch or in a second one."""
    return [replace(config, merge=merge) for merge in ("last_arrival", "second_kernel")]
