"""`gqabench samples RUN [CELL ...]`: the raw samples of some cells, as CSV and as a figure.

RUN is a run's folder, a file of records or a glob in quotes; more may follow. Runs of one cell are drawn side
by side. CELL names cells by what you have at hand; words of different kinds narrow the choice, and words of
one kind widen it:

  sdpa, new:sdpa, k.py:Good      an implementation, as tables name it
  kv_len=4096 flags=unstable     columns of the record and their values
  50bb530a9d72 or 50bb           a cell_id or case_id, or its beginning
  'sdpa, decode, batch 1, ...'   a line of a verdict, quoted

Without CELL the cells are listed. CSV goes to standard output, unless --csv or --figure names a file, as seen
from the current folder. Exit code: 0 done, 2 nothing fits, or there are no samples.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from gqabench.harness.cli.text_table import print_table
from gqabench.harness.cli.verdict_outputs import FIGURE_SUFFIXES
from gqabench.harness.errors import UsageError
from gqabench.results import UnreadableRun
from gqabench.results.axes import PROBLEM_KEYS
from gqabench.results.columns import sample_columns
from gqabench.results.comparison.verdicts import cell_key
from gqabench.results.selection import NoSuchCell, select_rows
from gqabench.results.store.run_folder import HEADER_NAME, PARQUET_NAME

if TYPE_CHECKING:
    from gqabench.reports.frames.samples import Series

Row: TypeAlias = Mapping[str, Any]

_HINTS = ("impl", "environment", *PROBLEM_KEYS, "run_id")
_MAX_HINTS = 4


def main(arguments: list[str]) -> int:
    """Run `gqabench samples` and return its exit code. Raises `UsageError`."""
    parsed = _parse(arguments)
    rows = read_rows(parsed.runs)
    if not parsed.cells and parsed.csv is None and parsed.figure is None:
        _list_cells(rows)
        return 0
    try:
        chosen = select_rows(rows, parsed.cells)
    except NoSuchCell as error:
        raise UsageError(str(error)) from error
    _export(chosen, parsed)
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gqabench samples",
        usage="gqabench samples RUN [RUN ...] [CELL ...] [--csv FILE] [--figure FILE]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="+", metavar="RUN, CELL", help="a run, more runs, and cells")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the CSV into a file")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the samples: .png or .svg")
    parsed = parser.parse_intermixed_args(arguments)
    if parsed.figure is not None and parsed.figure.suffix not in FIGURE_SUFFIXES:
        raise UsageError(f"--figure {parsed.figure}: must end with {' or '.join(FIGURE_SUFFIXES)}")
    run, *words = parsed.words
    parsed.runs = [run, *filter(_is_run, words)]
    parsed.cells = [word for word in words if not _is_run(word)]
    return parsed


def _is_run(word: str) -> bool:
    """Return whether a word names a run, or is meant to, and no cell: it is a path, a glob or a folder."""
    if ".py:" in word or re.search(r"[\s=]", word):
        return False
    if re.search(r"[/*]|\.(jsonl|parquet|json)$", word):
        return True
    return any((Path(word) / name).is_file() for name in (HEADER_NAME, PARQUET_NAME))


def read_rows(runs: Sequence[str]) -> Sequence[Row]:
    """Return the records of some runs, the newest of each cell of a run. Raises `UsageError`."""
    from gqabench.results.store.load import load_runs

    try:
        loaded = [row for run in runs for row in load_runs(run).rows]
    except UnreadableRun as error:
        raise UsageError(str(error)) from error
    keys = ("run_id", "case_id", "cell_id", "impl", "environment", "model")
    rows = list({tuple(row[key] for key in keys): row for row in loaded}.values())
    if not rows:
        raise UsageError(f"{' '.join(runs)}: holds no records")
    return rows


def cell_words(typed: Sequence[str]) -> list[str]:
    """Return words that may name a cell, for the shell: arms, and values of what varies in the runs typed.

    Nothing before a run is named, or where it cannot be read.
    """
    runs = [*typed[:1], *filter(_is_run, typed[1:])]
    try:
        rows = read_rows(runs) if runs else []
    except UsageError:
        return []
    arms = [cell_key(row).arm for row in rows]
    filters = [f"{key}={value}" for key, values in _varying(rows).items() for value in values]
    return list(dict.fromkeys(arms + filters))


def _varying(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Return the values of each key that has several; null is none."""
    values = {key: list(dict.fromkeys(row[key] for row in rows if row[key] is not None)) for key in _HINTS}
    return {key: found for key, found in values.items() if len(found) > 1}


def _list_cells(rows: Sequence[Row]) -> None:
    """Print a line for each cell: its ids, its name, and how many samples there are of it."""
    cells: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["cell_id"], row["case_id"], cell_key(row).label), []).append(row)
    lines = [(*cell, len(of_cell), _samples_text(of_cell)) for cell, of_cell in cells.items()]
    print_table(["cell_id", "case_id", "cell", "runs", "samples"], lines, left_columns=3)


def _samples_text(rows: Sequence[Row]) -> str:
    number = sum(len(row[name] or ()) for row in rows for name in sample_columns())
    return str(number) if number else rows[-1]["outcome"]


def _export(rows: Sequence[Row], parsed: argparse.Namespace) -> None:
    from gqabench.reports.frames.samples import samples_frame, series_of

    series = series_of(rows)
    with_samples = {id(one.row) for one in series}
    without = [row for row in rows if id(row) not in with_samples]
    if not series:
        more = f"; and {len(without) - 1} more without samples" if len(without) > 1 else ""
        raise UsageError(f"{_no_samples(without[0])}{more}")
    frame = samples_frame(series)
    if parsed.csv is not None:
        _write("--csv", parsed.csv, frame.to_csv(index=False).encode())
        print(f"csv: {parsed.csv}")
    if parsed.figure is not None:
        _write("--figure", parsed.figure, _figure(series, rows, parsed.figure))
        print(f"figure: {parsed.figure}")
    if parsed.csv is None and parsed.figure is None:
        frame.to_csv(sys.stdout, index=False)
    notes = [_no_samples(row) for row in without]
    if num_thinned := sum(one.is_thinned for one in series):
        notes.append(
            f"{num_thinned} series of a baseline, which keeps few of the samples: `index` counts those, and "
            "slices are not known"
        )
    for note in notes:
        print(f"gqabench samples: {note}", file=sys.stderr)


def _no_samples(row: Row) -> str:
    reason = f": {row['reason']}" if row["reason"] else ""
    return f"{cell_key(row).label}: has no samples: outcome {row['outcome']}{reason}"


def _figure(series: Sequence[Series], rows: Sequence[Row], path: Path) -> bytes:
    from gqabench.reports.figures.samples import samples_figure  # here: matplotlib is slow to load

    try:
        return samples_figure(series, path.suffix)
    except ValueError as error:
        raise UsageError(f"--figure {path}: {error}; add {_hint(rows)}") from error


def _hint(rows: Sequence[Row]) -> str:
    """Return words that would leave fewer of the records: `kv_len=512, or impl=sdpa`."""
    hints = [f"{key}={values[0]}" for key, values in _varying(rows).items()]
    return ", or ".join(hints[:_MAX_HINTS])


def _write(option: str, path: Path, content: bytes) -> None:
    from gqabench.reports.writing import write_atomically

    try:
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be written: {error.strerror}") from error
