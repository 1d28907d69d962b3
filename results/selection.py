"""Which records a person means: by id, by the name of an arm, by values of columns, by a verdict's line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any, TypeAlias

from gqabench.results.axes import PROBLEM_KEYS
from gqabench.results.column_types import ColumnType
from gqabench.results.columns import COLUMNS
from gqabench.results.comparison.verdicts import cell_key, problem_text

Row: TypeAlias = Mapping[str, Any]

_FILTER = re.compile(r"(\w+)=(.*)", re.DOTALL)
_MAX_NAMED = 5
_FILTER_KEYS = [name for name, one in COLUMNS.items() if not one.type.is_samples and one.type.scalar]


class NoSuchCell(ValueError):
    """Words that no record fits. One line that names the word and the nearest valid ones."""


def select_rows(rows: Sequence[Row], words: Iterable[str]) -> list[Row]:
    """Return the records that the words name, in the given order; all of them without a word.

    A word is one of these:

    - an arm, as tables name it: `sdpa` (in any environment), `new:sdpa`, `kernels/k.py:Good`, `k.py:Good`;
    - `key=value`, a column of the record and its value, or several: `kv_len=1024,4096`, `flags=unstable`;
    - a `case_id` or `cell_id`, or the beginning of one;
    - a line with a cell in it, such as a verdict: `sdpa, decode, batch 1, kv_len 256, heads 8/2 x 64, ...`.

    Words of one kind (filters of one key) add to each other; a record has to fit every kind. Raises
    `NoSuchCell`.
    """
    words = list(words)
    fitting: dict[str, set[int]] = {}
    for word in words:
        kind, places = _fit(word, rows)
        fitting.setdefault(kind, set()).update(places)
    chosen = set.intersection(*fitting.values()) if fitting else set(range(len(rows)))
    if not chosen:
        raise NoSuchCell(f"{' '.join(words)}: no cell fits all of this; {_almost(rows, fitting)}")
    return [row for place, row in enumerate(rows) if place in chosen]


def arm_names(row: Row) -> list[str]:
    """Return the ways in which an arm is named, the one of tables first."""
    impl, environment = str(row["impl"]), str(row["environment"])
    impls = [impl] if ".py:" not in impl else [impl, PurePath(impl).name]
    qualified = [f"{environment}:{one}" for one in impls] + [f"{one} @ {environment}" for one in impls]
    return list(dict.fromkeys([cell_key(row).arm, *impls, *qualified]))


def _fit(word: str, rows: Sequence[Row]) -> tuple[str, list[int]]:
    """Return of which kind a word is, and which records fit it: at least one. Raises `NoSuchCell`."""
    of_arm = [place for place, row in enumerate(rows) if word in arm_names(row)]
    if of_arm:
        return "arm", of_arm
    if found := _FILTER.fullmatch(word):
        return found[1], _with_value(word, found[1], found[2], rows)
    if " " in word.strip():
        return "line", _in_line(word, rows)
    return "id", _with_id(word, rows)


def _with_value(word: str, key: str, text: str, rows: Sequence[Row]) -> list[int]:
    if key not in _FILTER_KEYS:
        near = get_close_matches(key, _FILTER_KEYS, n=_MAX_NAMED)
        raise NoSuchCell(f"{word}: unknown key; {_named(near, PROBLEM_KEYS)}")
    kind = COLUMNS[key].type
    wanted = {_value(kind, one) for one in (text, *text.split(","))}
    places = [
        place
        for place, row in enumerate(rows)
        if not wanted.isdisjoint(row[key] or ["null"] if kind.is_list else [row[key]])
    ]
    if places:
        return places
    raise NoSuchCell(f"{word}: no record has it; {_nearest_values(kind, key, text, rows)}")


def _value(kind: ColumnType, text: str) -> Any:
    """Return a value as it is written on a command line; what cannot be one stays text, and equals none."""
    if text == "null":
        return "null" if kind.is_list else None
    if kind.scalar is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return text if kind.scalar in (None, str) else kind.scalar(text)
    except ValueError:
        return text


def _nearest_values(kind: ColumnType, key: str, text: str, rows: Sequence[Row]) -> str:
    values = [one for row in rows for one in (row[key] or [] if kind.is_list else [row[key]])]
    present = list(dict.fromkeys(values))
    wanted = _value(kind, text)
    if isinstance(wanted, int | float) and not isinstance(wanted, bool):
        numbers = sorted((one for one in present if one is not None), key=lambda one: abs(one - wanted))
        return _named([_text(one) for one in numbers[:_MAX_NAMED]], map(_text, present))
    texts = [_text(one) for one in present]
    return _named(get_close_matches(text, texts, n=_MAX_NAMED), texts)


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _with_id(word: str, rows: Sequence[Row]) -> list[int]:
    ids = sorted({str(row[key]) for row in rows for key in ("case_id", "cell_id")})
    begun = [word] if word in ids else [one for one in ids if word and one.startswith(word)]
    if len(begun) > 1:
        raise NoSuchCell(f"{word}: {len(begun)} ids begin with it; {_named([], begun)}")
    if not begun:
        names = list(dict.fromkeys(name for row in rows for name in arm_names(row)))
        arms = list(dict.fromkeys(cell_key(row).arm for row in rows))
        near = _named(get_close_matches(word, [*names, *ids], n=_MAX_NAMED), arms)
        raise NoSuchCell(
            f"{word or repr(word)}: neither an implementation nor an id of these records; {near}"
        )
    return [place for place, row in enumerate(rows) if begun[0] in (row["case_id"], row["cell_id"])]


def _in_line(word: str, rows: Sequence[Row]) -> list[int]:
    """Return the records of the cell that a line names, with whatever stands around it.

    A line that spells out no problem in full names the cells that have all its parts: `decode, batch 1`.
    """
    line = " ".join(word.split())
    problem = next((text for row in rows if _stands_in(text := problem_text(row), line)), None)
    if problem is not None:
        before = line[: line.index(problem)].rstrip(" ,|")
        of_problem = [place for place, row in enumerate(rows) if problem_text(row) == problem]
        places = _of_arm_at_end(before, of_problem, rows) if before else of_problem
    else:
        parts = {part.strip() for part in line.split(",")}
        places = [
            place
            for place, row in enumerate(rows)
            if parts <= {*arm_names(row), *problem_text(row).split(", ")}
        ]
    if not places:
        labels = list(dict.fromkeys(cell_key(row).label for row in rows))
        near = get_close_matches(line, labels, n=2, cutoff=0.5)
        raise NoSuchCell(f"{line}: no such cell; {_named(near, labels[:2])}")
    return places


def _stands_in(problem: str, line: str) -> bool:
    """Return whether a line has a problem's text, and not as a part of a longer word."""
    return re.search(rf"(?<!\w){re.escape(problem)}(?!\w|:\d)", line) is not None


def _of_arm_at_end(text: str, places: Sequence[int], rows: Sequence[Row]) -> list[int]:
    """Return which of the records are of the arm that a text ends with: `regression::sdpa`."""
    named = [
        (len(name), place)
        for place in places
        for name in arm_names(rows[place])
        if text == name or text.endswith((f" {name}", f"::{name}"))
    ]
    longest = max((length for length, _ in named), default=0)
    of_name = list(dict.fromkeys(place for length, place in named if length == longest))
    exactly = [place for place in of_name if len(cell_key(rows[place]).arm) == longest]
    return exactly or of_name


def _almost(rows: Sequence[Row], fitting: Mapping[str, set[int]]) -> str:
    """Return cells that fit most kinds of words, as text."""
    num_fitting = [sum(place in places for places in fitting.values()) for place in range(len(rows))]
    most = max(num_fitting, default=0)
    best = [row for row, number in zip(rows, num_fitting, strict=True) if number == most]
    labels = list(dict.fromkeys(cell_key(row).label for row in best))
    return f"nearest: {'; '.join(labels[:2])}" + (f"; and {len(labels) - 2} more" if len(labels) > 2 else "")


def _named(near: Sequence[str], valid: Iterable[str]) -> str:
    """Return `nearest: a, b`; where nothing is near, `valid: ...`, cut after some."""
    if near:
        return f"nearest: {', '.join(near)}"
    names = list(dict.fromkeys(valid))
    more = f", and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"valid: {', '.join(names[:_MAX_NAMED])}{more}"
