"""Progress in a Jupyter notebook: one line under the cell, rewritten in place. Needs nothing but IPython."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any

from gqabench.harness.cases.case import Case, InvalidCase
from gqabench.harness.sweep.progress import count_outcomes, describe_case
from gqabench.results import Outcome, Record

_SECONDS_BETWEEN_UPDATES = 0.5


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook, whose output can be rewritten."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class NotebookDisplay:
    """A line such as `17/120 records: 15 ok, 2 unsupported; decode 32/8 heads, batch 1, context 4096`."""

    def __init__(self) -> None:
        self._num_records: int | None = None
        self._outcomes: Counter[Outcome] = Counter()
        self._case = ""
        self._updated_at = -_SECONDS_BETWEEN_UPDATES
        self._handle = _display(_Line("starting workers"))

    def start(self, num_cases: int, num_records: int) -> None:
        self._num_records = num_records

    def begin_case(self, case: Case | InvalidCase) -> None:
        self._case = describe_case(case)
        self._update()

    def add_record(self, record: Record) -> None:
        self._outcomes[record.outcome] += 1
        self._update()

    def end_case(self) -> None:
        pass

    def stop(self) -> None:
        self._handle.update(_Line(self._counts()))

    def _update(self) -> None:
        now = time.monotonic()
        if now - self._updated_at >= _SECONDS_BETWEEN_UPDATES:
            self._updated_at = now
            self._handle.update(_Line(f"{self._counts()}; {self._case}"))

    def _counts(self) -> str:
        if self._num_records is None:
            return "nothing was measured"
        return f"{self._outcomes.total()}/{self._num_records} records: {count_outcomes(self._outcomes)}"


class _Line:
    """Text that a notebook shows as it is, without the quotes of a string."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _display(line: _Line) -> Any:
    """Show a line; returns what rewrites it."""
    from IPython.display import display  # type: ignore[import-not-found, unused-ignore]

    return display(line, display_id=True)
