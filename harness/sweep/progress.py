"""What a person sees while a sweep runs: a bar on a terminal, a few lines in a log."""

from __future__ import annotations

from collections import Counter
from typing import IO, Protocol

from gqabench.harness.cases.case import Case, InvalidCase
from gqabench.results import Outcome, Record


class Display(Protocol):
    """Receives the events of a sweep, in order."""

    def start(self, num_cases: int, num_records: int) -> None: ...

    def begin_case(self, case: Case | InvalidCase) -> None: ...

    def add_record(self, record: Record) -> None: ...

    def end_case(self) -> None: ...

    def stop(self) -> None: ...


class SilentDisplay:
    """Displays nothing: for jobs that a launcher runs elsewhere."""

    def start(self, num_cases: int, num_records: int) -> None:
        pass

    def begin_case(self, case: Case | InvalidCase) -> None:
        pass

    def add_record(self, record: Record) -> None:
        pass

    def end_case(self) -> None:
        pass

    def stop(self) -> None:
        pass


class LogDisplay(SilentDisplay):
    """Prints one line for every tenth of the cases: for the logs of a CI."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._num_cases = self._done = 0
        self._outcomes: Counter[Outcome] = Counter()

    def start(self, num_cases: int, num_records: int) -> None:
        self._num_cases = num_cases
        cases, records = _counted(num_cases, "case"), _counted(num_records, "record")
        print(f"{cases}, {records} planned", file=self._stream, flush=True)

    def add_record(self, record: Record) -> None:
        self._outcomes[record.outcome] += 1

    def end_case(self) -> None:
        self._done += 1
        tenths = 10 * self._done // self._num_cases
        if tenths != 10 * (self._done - 1) // self._num_cases:
            print(
                f"{self._done}/{self._num_cases} cases: {count_outcomes(self._outcomes)}",
                file=self._stream,
                flush=True,
            )


class BarDisplay:
    """A bar with counts, the time left and the current case."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("records, left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            refresh_per_second=2,
            transient=True,
        )
        self._task = self._progress.add_task("planning", total=None)

    def start(self, num_cases: int, num_records: int) -> None:
        self._progress.update(self._task, total=num_records, completed=0)
        self._progress.start()

    def begin_case(self, case: Case | InvalidCase) -> None:
        self._progress.update(self._task, description=describe_case(case))

    def add_record(self, record: Record) -> None:
        self._progress.advance(self._task)

    def end_case(self) -> None:
        pass

    def stop(self) -> None:
        self._progress.stop()


def describe_case(case: Case | InvalidCase) -> str:
    """Describe a case in a few words, for the bar."""
    fields = case.shape_fields()
    heads = f"{fields['num_q_heads']}/{fields['num_kv_heads']} heads"
    return f"{fields['workload']} {heads}, batch {fields['batch_size']}, context {fields['kv_len']}"


def count_outcomes(outcomes: Counter[Outcome]) -> str:
    """Format counts such as `90 ok, 18 unsupported`, in the order of `Outcome`."""
    return (
        ", ".join(f"{outcomes[outcome]} {outcome}" for outcome in Outcome if outcomes[outcome])
        or "no records"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
