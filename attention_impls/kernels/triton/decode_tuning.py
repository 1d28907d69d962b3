"""The configuration of the decode kernel for a problem: timed on its device, or the default."""

from __future__ import annotations

from gqabench.attention_impls.contract import AttentionInputs
from gqabench.attention_impls.kernels.triton.cold_timer import cold_milliseconds
from gqabench.attention_impls.kernels.triton.decode_config import (
    DecodeConfig,
    block_rows_of,
    launch_candidates,
    merge_candidates,
    tile_candidates,
)
from gqabench.attention_impls.kernels.triton.decode_launch import DecodeCache, DecodeLaunch
from gqabench.attention_impls.kernels.triton.device import is_interpreted
from gqabench.attention_impls.kernels.triton.tuning import Choice, choose, tuning_key
from gqabench.attention_impls.problem import AttentionProblem


def choose_decode(
    problem: AttentionProblem, inputs: AttentionInputs, cache: DecodeCache
) -> Choice[DecodeConfig]:
    """Choose the tiles, then the splits, then how to merge.

    Each round starts from the best configuration of the one before.
    """
    candidates = tile_candidates(problem)
    if is_interpreted():
        return Choice(candidates[0], "interpreted", None)

    def time_ms(config: DecodeConfig) -> float:
        return cold_milliseconds(DecodeLaunch(problem, inputs, cache, config), problem.device)

    # Another number of rows is another kernel: a tile that fits one's registers may not fit the other's.
    key = tuning_key("triton_decode", problem) | {"block_rows": block_rows_of(problem)}
    return choose(DecodeConfig, key, candidates, [launch_candidates, merge_candidates], time_ms)
