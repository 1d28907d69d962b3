"""Tables and text as Markdown, escaped: a reason is text of others and stays text."""

from __future__ import annotations

from gqabench.reports.tables.results_table import Column, Table


def markdown(table: Table) -> str:
    """Return the table in GitHub's Markdown; group headings become a first column."""
    titled = any(group.title for group in table.groups)
    columns = [*([Column("problem")] if titled else []), *table.columns]
    lines = [
        "| " + " | ".join(markdown_text(column.title) for column in columns) + " |",
        "| " + " | ".join("---:" if column.is_number else "---" for column in columns) + " |",
    ]
    for group in table.groups:
        for row in group.rows:
            texts = [
                f"**{markdown_text(cell.text)}**" if cell.strong else markdown_text(cell.text) for cell in row
            ]
            lines.append(
                "| " + " | ".join([*([markdown_text(group.title)] if titled else []), *texts]) + " |"
            )
    return "\n".join(lines)


_ESCAPES = str.maketrans(
    {
        "\\": "\\\\",
        "|": "\\|",
        "<": "&lt;",
        ">": "&gt;",
        "&": "&amp;",
        "`": "\\`",
        "*": "\\*",
        "[": "\\[",
        "]": "\\]",
    }
)


def markdown_text(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return " ".join(text.translate(_ESCAPES).split())
