"""The fields of a dataclass with what its source says of them."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class DocumentedField:
    """A key of a sweep, or a column of a record."""

    name: str
    type: str
    """In a reader's words: `int or null`, `list of float`."""
    section: str
    about: str


def documented_fields(cls: type) -> list[DocumentedField]:
    """Return a dataclass's fields, each with the docstring below it and the comment above its section."""
    source = inspect.getsource(cls)
    lines = source.splitlines()
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.ClassDef)
    documented = []
    for statement, following in zip(definition.body, [*definition.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            comments = [line[6:] for line in lines[: statement.lineno] if line.startswith("    # ")]
            documented.append(
                DocumentedField(
                    name=statement.target.id,
                    type=_type_text(ast.unparse(statement.annotation)),
                    section=comments[-1] if comments else "",
                    about=_docstring(following),
                )
            )
    assert [one.name for one in documented] == [item.name for item in fields(cls)]
    return documented


def _docstring(statement: ast.stmt | None) -> str:
    """Return the docstring that a statement is, in one line; empty where it is none."""
    if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
        return ""
    return " ".join(re.sub(r"\bNone\b", "`null`", str(statement.value.value)).split())


def _type_text(annotation: str) -> str:
    text = re.sub(r"list\[(\w+)\]", r"list of \1", annotation).replace(" | None", " or null")
    return text.replace("dict[str, Any]", "object").replace("Any", "any").replace("Outcome", "str")
