"""A comparison as GitHub's Markdown: for a pull request or a job's summary."""

from __future__ import annotations

from gqabench.reports.tables.markdown import markdown_text
from gqabench.reports.units import plural
from gqabench.reports.verdicts.wording import COLUMNS, cells_of_table, summary, worth_showing
from gqabench.results.comparison.verdicts import Answer, Comparison

MARKS = {Answer.REGRESSION: "❌", Answer.INCONCLUSIVE: "❔", Answer.NO_REGRESSION: "✅"}
_NUMBERS = ("base", "new", "change")


def comparison_markdown(comparison: Comparison, max_rows: int = 200) -> str:
    """Return a heading, the summary, a table of what is worth showing, notes; ends with a line end."""
    base, new = markdown_text(comparison.base), markdown_text(comparison.new)
    lines = [
        f"## {MARKS[comparison.answer]} GQABench: {base} → {new}",
        "",
        markdown_text(summary(comparison)),
    ]
    verdicts = worth_showing(comparison)
    if verdicts:
        lines += ["", _row(COLUMNS), _row(["---:" if name in _NUMBERS else "---" for name in COLUMNS])]
        lines += [
            _row([markdown_text(text) for text in cells_of_table(verdict)]) for verdict in verdicts[:max_rows]
        ]
    if len(verdicts) > max_rows:
        lines += ["", f"and {plural(len(verdicts) - max_rows, 'more row')}"]
    if comparison.new_cells:
        lines += ["", f"{plural(len(comparison.new_cells), 'new cell')}, without a base:", ""]
        lines += [f"- {markdown_text(cell.label)}" for cell in comparison.new_cells[:max_rows]]
    if comparison.notes:
        lines += ["", *(f"- {markdown_text(note)}" for note in comparison.notes)]
    return "\n".join(lines) + "\n"


def _row(texts: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(texts) + " |"
