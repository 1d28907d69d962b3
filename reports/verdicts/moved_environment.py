"""A moved environment in words: what changed, what all arms did, and how they are among each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gqabench.reports.units import plural
from gqabench.reports.verdicts.changes import change_text
from gqabench.results.comparison.environment_move import CommonChange, EnvironmentMove, FactChange
from gqabench.results.comparison.verdicts import Comparison
from gqabench.results.environment_history import HistoryMove

MAX_NAMED = 5
_OR_CODE = "the environment moved, or the code that all arms share"


def moved_text(comparison: Comparison) -> str | None:
    """Return what is said of the environment, parted by semicolons; None where it did not move."""
    move = comparison.environment_move
    if move is None:
        return None
    parts = [f"{_head(move)}: {'; '.join(_evidence(move))}"]
    if move.common is not None and not move.common.is_beyond_runs:
        whether = "the environment moved" if move.is_suspected else "it stays so"
        parts.append(f"one run a side does not tell whether {whether}")
    if comparison.relative_answer is not None:
        parts.append(f"arms against each other: {comparison.relative_answer}")
    return "; ".join(parts)


def common_text(common: CommonChange) -> str:
    """Return what all arms did: `all 12 cells are 8.1 % slower (+7.0 % to +9.2 %)`."""
    which = _which_cells(common.num_moved, common.num_cells)
    direction = "slower" if common.change > 0 else "faster"
    interval = f"{change_text(common.change_low)} to {change_text(common.change_high)}"
    return f"{which} are {change_text(abs(common.change)).removeprefix('+')} {direction} ({interval})"


def facts_text(facts: Sequence[FactChange]) -> str:
    """Return facts with what they were and are: `torch 2.11.0, then 2.13.0`."""
    texts = [f"{fact.name} {fact.before}, then {fact.after}" for fact in facts[:MAX_NAMED]]
    more = [f"and {len(facts) - MAX_NAMED} more"] if len(facts) > MAX_NAMED else []
    return "; ".join([*texts, *more])


def history_move_text(move: HistoryMove, metric: str) -> str:
    """Return one line: from which run on the environment is another, and what says so."""
    head = "the environment moved" if move.facts or not move.code else _OR_CODE
    parts = [facts_text(move.facts)] if move.facts else []
    if move.common is not None:
        which = _which_cells(move.common.num_moved, move.common.num_cells)
        parts.append(f"{metric} of {which} by {change_text(math.expm1(move.common.log_ratio))}")
        if not move.facts:
            parts.append("no recorded fact of the environment changed")
    if move.code:
        parts.append(f"the code changed: {facts_text(move.code)}")
    if move.num_own:
        parts.append(
            f"{plural(move.num_own, 'cell')} changed by {'itself' if move.num_own == 1 else 'themselves'}"
        )
    comma = "," if head == _OR_CODE else ""
    return f"{head}{comma} from run {move.first.run_id} on: {'; '.join(parts)}"


def _which_cells(num_moved: int, num_cells: int) -> str:
    cells = plural(num_cells, "cell")
    return f"all {cells}" if num_moved == num_cells else f"{num_moved} of {cells}"


def _head(move: EnvironmentMove) -> str:
    if move.is_suspected:
        return "the two runs differ as a whole"
    return _OR_CODE if move.code and not move.facts else "the environment moved"


def _evidence(move: EnvironmentMove) -> list[str]:
    parts = [facts_text(move.facts)] if move.facts else []
    if move.common is not None:
        parts.append(common_text(move.common))
        if not move.facts:
            parts.append("no recorded fact of the environment changed")
        if move.code:
            parts.append(f"the code changed: {facts_text(move.code)}")
    return parts
