"""A comparison at a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gqabench.reports.units import plural
from gqabench.reports.verdicts.wording import COLUMNS, answer_text, cells_of_table, summary, worth_showing
from gqabench.results.comparison.verdicts import Comparison

STYLES = {"regression": "bold red", "inconclusive": "yellow", "better": "green"}


MAX_NEW_CELLS = 10
MAX_ROWS = {"regression": 40, "inconclusive": 10, "better": 10}


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print notes, a table of what is worth showing, and the summary as the last line."""
    for note in comparison.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    all_verdicts = worth_showing(comparison)
    verdicts = [
        verdict
        for answer, max_rows in MAX_ROWS.items()
        for verdict in [one for one in all_verdicts if answer_text(one) == answer][:max_rows]
    ]
    if verdicts:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in COLUMNS:
            is_number = name in ("base", "new", "change")
            table.add_column(name, justify="right" if is_number else "left", no_wrap=is_number)
        for verdict in verdicts:
            texts = map(escape, cells_of_table(verdict))
            table.add_row(*texts, style=STYLES.get(answer_text(verdict)))
        console.print(table)
    if len(all_verdicts) > len(verdicts):
        console.print(f"and {plural(len(all_verdicts) - len(verdicts), 'more row')}: --json FILE has all")
    for cell in comparison.new_cells[:MAX_NEW_CELLS]:
        console.print(f"new: {cell.label}", markup=False, highlight=False, soft_wrap=True)
    if len(comparison.new_cells) > MAX_NEW_CELLS:
        console.print(f"and {plural(len(comparison.new_cells) - MAX_NEW_CELLS, 'more new cell')}")
    console.print(summary(comparison), markup=False, highlight=False, soft_wrap=True)
