"""Keys of a sweep as Hydra's overrides: those of a command line, and those of a Python call."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from gqabench.harness.errors import UsageError

MULTIRUN_FLAGS = ("-m", "--multirun")

Scalar: TypeAlias = bool | int | float | str | os.PathLike[str] | None
Value: TypeAlias = Scalar | Sequence["Value"] | Mapping[str, "Value"]
"""What a key may be given from Python: a value, several of them as an axis, or keys below it."""

_KEY = re.compile(r"[A-Za-z_][\w./@-]*")
_PLAIN_WORD = re.compile(r"[A-Za-z_][\w-]*")
_WORDS_OF_MEANING = ("null", "true", "false", "inf", "nan")
_LIST_KEYS = ("impls", "measure.caches")
"""Keys whose value is a list: an axis of them is a list of lists."""


def hydra_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a user's arguments as Hydra's parser wants them: flags first, and environments as new keys."""
    marked = [re.sub(r"^(?=environments[.=])", "++", argument) for argument in arguments]
    return sorted(marked, key=lambda argument: argument not in MULTIRUN_FLAGS)


def overrides_of(keys: Mapping[str, Value]) -> list[str]:
    """Return Python values as a command line gives them: `batch_size=1,8`, `impls=[sdpa]`, `window=null`.

    A list is an axis, and a mapping holds keys below its own. Raises `UsageError` for what is no value.
    """
    return [f"{key}={text}" for name, value in keys.items() for key, text in _settings(name, value)]


def _settings(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if not _KEY.fullmatch(key):
        raise UsageError(f"{key}: must be a key of a sweep, such as batch_size or measure.energy")
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _settings(f"{key}.{name}", inner)
        return
    value = _plain(value)
    if not isinstance(value, list):
        yield key, _text(key, value)
    elif not value:
        raise UsageError(f"{key}=[]: needs a value, or several")
    elif key in _LIST_KEYS and not all(isinstance(one, list) for one in value):
        yield key, _text(key, value)
    else:
        yield key, ",".join(_text(key, one) for one in value)


def _plain(value: Any) -> Any:
    """Return lists for tuples, ranges and arrays, and plain numbers for those of numpy."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_plain(one) for one in value] if isinstance(value, list | tuple | range) else value


def _text(key: str, value: Any) -> str:
    """One value in the grammar of Hydra's overrides."""
    if isinstance(value, list) and key in _LIST_KEYS:
        return f"[{','.join(_text(key, one) for one in value)}]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        is_plain = _PLAIN_WORD.fullmatch(text) and text.lower() not in _WORDS_OF_MEANING
        return text if is_plain else quoted(text)
    raise UsageError(f"{key}={value!r}: must be a number, a text, True, False or None, or a list of these")


def quoted(text: str) -> str:
    """Return a string as Hydra's grammar takes it literally: backslashes count only before a quote."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + (r"\'" if match[2] else ""), text)
    return f"'{escaped}'"
