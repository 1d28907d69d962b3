"""A comparison at a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reports.units import plural
from reports.verdicts.wording import COLUMNS, answer_text, cells_of_table, summary, worth_showing
from results.verdicts import Comparison

STYLES = {"regression": "bold red", "inconclusive": "yellow", "better": "green"}


def print_comparison(comparison: Comparison, console: Console, max_rows: int = 40) -> None:
    """Notes, a table of what is worth showing, and the summary as the last line."""
    for note in comparison.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    verdicts = worth_showing(comparison)
    if verdicts:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in COLUMNS:
            is_number = name in ("base", "new", "change")
            table.add_column(name, justify="right" if is_number else "left", no_wrap=is_number)
        for verdict in verdicts[:max_rows]:
            texts = map(escape, cells_of_table(verdict))
            table.add_row(*texts, style=STYLES.get(answer_text(verdict)))
        console.print(table)
    if len(verdicts) > max_rows:
        console.print(f"and {plural(len(verdicts) - max_rows, 'more row')}: --json FILE has all")
    console.print(summary(comparison), markup=False, highlight=False, soft_wrap=True)
