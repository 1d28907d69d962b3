"""Reduces the errors of Hydra and OmegaConf to one line each."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from gqabench.conf import MeasureConfig
from gqabench.harness.cases.keys import SweepConfig
from gqabench.harness.errors import UsageError
from gqabench.harness.workers.process import WorkerFailed

_UNKNOWN_KEY = re.compile(r"Key '(?P<key>[^']+)' (?:is )?not in '?(?P<schema>\w+)")
_ILL_TYPED = re.compile(r"Error merging override (?P<override>.+)")
_WANTED_TYPES = {
    "Integer": "a whole number",
    "Float": "a number",
    "'int'": "a whole number",
    "'float'": "a number",
    "'str'": "text",
    "is not Optional": "a value, not null",
}
"""OmegaConf's names of types, at the end of its complaints, in words."""


@contextmanager
def mistakes_explained() -> Iterator[None]:
    """Raise `UsageError`, one line, for a user's mistake that Hydra or OmegaConf reports inside.

    An interruption remains one, even if it happens within a library whose clean-up then fails instead.
    """
    try:
        yield
    except Exception as error:
        if any(isinstance(cause, KeyboardInterrupt) for cause in _chain(error)):
            raise KeyboardInterrupt from error
        explanation = _explain(error)
        if explanation is None:
            raise
        raise UsageError(explanation) from None


def _explain(error: BaseException) -> str | None:
    """Return one line for a user's mistake; None for any other error, which is a bug of ours."""
    chain = _chain(error)
    for cause in chain:
        if isinstance(cause, UsageError):
            return str(cause)
        if isinstance(cause, WorkerFailed):
            return f"the worker process did not start: {cause}"
        if isinstance(cause, OverrideParseException):
            return f"{cause.override}: cannot be parsed: {str(cause).splitlines()[0]}"
        if isinstance(cause, MissingConfigException):
            return _explain_missing(cause)
        if isinstance(cause, OSError):
            return f"{cause.filename or 'results_dir'}: {cause.strerror}"
    if not isinstance(error, (HydraException, OmegaConfBaseException, ValueError)):
        return None
    text = "\n".join(str(cause) for cause in chain)
    if match := _UNKNOWN_KEY.search(text):
        return _explain_unknown_key(match["key"], match["schema"])
    if match := _ILL_TYPED.search(text):
        return f"{match['override']}: must be {_wanted_type(chain)}"
    lines = [line.strip() for line in str(error).splitlines()]
    return "; ".join(line for line in lines if line)


def _explain_missing(error: MissingConfigException) -> str:
    group, _, name = str(error.missing_cfg_file or error).rpartition("/")
    if not group:
        return f"{name}: no such configuration"
    return f"{group}={name}: unknown; valid: {', '.join(error.options or [])}"


def _explain_unknown_key(key: str, schema: str) -> str:
    if schema == MeasureConfig.__name__:
        prefix, valid = "measure.", [item.name for item in fields(MeasureConfig)]
    else:
        prefix, valid = "", [item.name for item in fields(SweepConfig)] + ["impl_set"]
    close = difflib.get_close_matches(key, valid, n=1)
    hint = f" (did you mean {prefix}{close[0]}?)" if close else ""
    return f"{prefix}{key}: unknown key{hint}; valid: {', '.join(prefix + name for name in valid)}"


def _wanted_type(chain: list[BaseException]) -> str:
    for cause in chain:
        first_line = str(cause).partition("\n")[0]
        for name, words in _WANTED_TYPES.items():
            if first_line.endswith(name):
                return words
    return "of another type"


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return the error and those that it was raised from."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
