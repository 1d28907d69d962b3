"""`gqabench history RUN [RUN ...]`: cells over many runs of one machine, and which revision changed them.

Where the environment moved, one line names what changed, and cells are listed for what they did beside it.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from gqabench.harness.errors import UsageError
from gqabench.results import UnreadableRun
from gqabench.results.comparison.metrics import METRICS

if TYPE_CHECKING:
    from gqabench.results.history import Change, History, Trend

_DEFAULT_MIN_EFFECT = 0.02


def main(arguments: list[str]) -> int:
    """Run `gqabench history` and return its exit code."""
    parser = argparse.ArgumentParser(prog="gqabench history", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs, or globs in quotes")
    parser.add_argument("--metric", default="latency_ms", choices=list(METRICS), metavar="COLUMN",
                        help=f"default: latency_ms; one of {', '.join(METRICS)}")  # fmt: skip
    parser.add_argument("--min-effect", type=float, default=_DEFAULT_MIN_EFFECT, metavar="SHARE",
                        help="smallest relative change to report; default: 0.02")  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, default=Path("history"), metavar="FOLDER",
                        help="folder of the figures; default: history")  # fmt: skip
    parsed = parser.parse_args(arguments)
    from gqabench.results.comparison.compared_side import NotComparable
    from gqabench.results.history import MIN_RUNS, history, load_history

    try:
        headers, rows = load_history(parsed.runs)
        found = history(headers, rows, parsed.metric, parsed.min_effect)
    except (UnreadableRun, NotComparable) as error:
        raise UsageError(str(error)) from error
    except ModuleNotFoundError as error:
        raise UsageError(f"history needs {error.name}: pip install 'gqabench[history]'") from error
    if not found.trends:
        raise UsageError(f"--metric {parsed.metric}: no cell has values from two or more runs")
    pages = _write_figures(found.trends, parsed.output, parsed.metric)
    for line in (*move_lines(found), *change_lines(found)):
        print(line)
    if len(headers) < MIN_RUNS and not METRICS[parsed.metric].is_exact:
        print(f"{len(headers)} runs: at least {MIN_RUNS} are needed to tell a change of level from scatter")
    num_changed = sum(bool(trend.changes) for trend in found.trends)
    beside = " by themselves" if any(move.common for move in found.moves) else ""
    print(f"{num_changed} of {len(found.trends)} cells changed{beside} over {len(headers)} runs")
    print(f"figures: {', '.join(map(str, pages))}")
    return 0


def move_lines(found: History) -> list[str]:
    """Format where the environment moved, a line for each run: its facts, and what all arms did."""
    from gqabench.reports.verdicts.moved_environment import history_move_text

    return [history_move_text(move, found.trends[0].metric) for move in found.moves]


def change_lines(found: History) -> list[str]:
    """Format each cell's own change as a line: what, how much, and between which revisions."""
    return [
        f"{_step(change.relative)}  {trend.cell.label}: {trend.metric} {_number(change.before)} to "
        f"{_number(change.after)}{_beside(change)}, from run {change.first.run_id}: "
        f"{change.last.revision} to {change.first.revision}"
        for trend in found.trends
        for change in trend.changes
    ]


def _beside(change: Change) -> str:
    """Say what part of a change is the environment's."""
    return f" beside {change.shared:+.1%} of all arms" if change.shared else ""


def _step(relative: float) -> str:
    return f"{relative:+8.1%}" if math.isfinite(relative) else "new".rjust(8)


def _number(value: float) -> str:
    """Format bytes to the last digit, anything else to four digits."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def _write_figures(found: list[Trend], folder: Path, metric: str) -> list[Path]:
    from gqabench.reports.figures.trends import trend_pages
    from gqabench.reports.writing import write_atomically

    pages = []
    for number, page in enumerate(trend_pages(found), start=1):
        path = folder / f"{metric}-{number}.png"
        try:
            write_atomically(path, page)
        except OSError as error:
            raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
        pages.append(path)
    return pages
