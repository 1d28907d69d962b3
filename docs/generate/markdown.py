"""Paragraphs, tables and values as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def page(title: str, first_sentence: str, *parts: str) -> str:
    """Return the text of a generated page: a heading, what the reader gets, and paragraphs."""
    notice = "<!-- Written by `make docs` from the tables of the code. Do not edit. -->"
    return "\n\n".join([f"# {title}", notice, first_sentence, *parts]) + "\n"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def code(value: Any) -> str:
    """Return a value as YAML spells it, in backticks."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if isinstance(value, bool | None) else str(value).replace("'", "")
    return f"`{text}`"


def codes(values: Iterable[Any]) -> str:
    """Return values in backticks, with commas between."""
    return ", ".join(map(code, values))
