"""Runs the steps of a piece under one deadline: each gets the time that is left, and each is saved.

A step that hangs is killed, reported, and the next one runs. What was found is saved after every step, so
that a machine that is taken away costs at most the step in flight.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from process_tree import run_limited
from sweep_parts import ROOT

SECONDS = "{seconds}"
"""Where the command of a step is told how long it has."""
INTERRUPTION_SECONDS = 20.0
"""For which a step that is interrupted may save what it has."""

RUNNING, DONE, OPEN, KILLED, FAILED = "running", "done", "open", "killed", "failed"


@dataclass(frozen=True)
class Step:
    """One command of a piece."""

    name: str
    shows: str
    command: tuple[str, ...]
    seconds: float
    """Its budget. It gets more where steps after it do not need it, and less where too little is left."""
    closing_seconds: float = 0.0
    """How long it needs to save and report after the time that it was told."""
    least_seconds: float = 10.0
    """Less is not worth beginning with."""
    is_complete: Callable[[], bool] | None = None
    """Whether nothing is left to do; None where a command that ends by itself is complete."""


@dataclass(frozen=True)
class StepState:
    """How far a step has come."""

    state: str
    """`running`, `done`, `open` (to be continued), `killed` (at its limit) or `failed`"""
    exit_code: int | None = None
    seconds: float = 0.0
    """Of all calls together"""


class StepStates:
    """The states of steps, in a file that is replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            kept = json.loads(path.read_text()) if path.exists() else {}
            self.by_name = {name: StepState(**values) for name, values in kept.items()}
        except (ValueError, TypeError):
            raise SystemExit(f"{path}: cannot be read; without it all steps count as open") from None

    def remember(self, name: str, state: StepState) -> None:
        self.by_name[name] = state
        unfinished = self._path.with_suffix(".unfinished")
        values = {step: asdict(one) for step, one in self.by_name.items()}
        unfinished.write_text(json.dumps(values, indent=1) + "\n")
        unfinished.replace(self._path)

    def is_done(self, step: Step) -> bool:
        state = self.by_name.get(step.name)
        return state is not None and state.state == DONE


class PieceRunner:
    """Runs steps until a moment of the monotonic clock; `save` is called between them."""

    def __init__(self, folder: Path, states: StepStates, ends_at: float, save: Callable[[], None]) -> None:
        self._folder = folder
        self._states = states
        self._ends_at = ends_at
        self._save = save

    def run(self, steps: Sequence[Step]) -> None:
        """Run the steps in their order; one for which no time is left is said and left out."""
        for index, step in enumerate(steps):
            seconds = granted_seconds(step, steps[index + 1 :], self._ends_at - time.monotonic())
            if seconds is None:
                print(f"{step.name}: no time left; ask again", flush=True)
                continue
            self._run(step, seconds)
            if index + 1 < len(steps):
                self._save()

    def _run(self, step: Step, seconds: float) -> None:
        before = self._states.by_name.get(step.name, StepState(OPEN))
        self._states.remember(step.name, replace(before, state=RUNNING))
        log, started = self._folder / f"{step.name}.log", time.monotonic()
        told = max(seconds - step.closing_seconds, 1.0)
        command = [f"{told:.0f}" if word == SECONDS else word for word in step.command]
        ended = replace(before, state=OPEN)
        try:
            exit_code = run_limited(command, seconds, ROOT, log, INTERRUPTION_SECONDS)
            ended = replace(ended, state=_state(step, exit_code), exit_code=exit_code)
        except OSError as error:
            log.write_text(f"{command[0]}: {error.strerror}\n")
            ended = replace(ended, state=FAILED)
        finally:
            spent = time.monotonic() - started
            self._states.remember(step.name, replace(ended, seconds=round(before.seconds + spent, 1)))
        said = "" if ended.state == DONE and not ended.exit_code else f", see {log}"
        code = f", exit code {ended.exit_code}" if ended.exit_code else ""
        print(f"{step.name}: {ended.state}{code}, {spent:.0f} of {seconds:.0f} s{said}", flush=True)


def _state(step: Step, exit_code: int | None) -> str:
    is_complete = exit_code is not None if step.is_complete is None else step.is_complete()
    if is_complete:
        return DONE
    if exit_code is None:
        return KILLED
    return OPEN if exit_code == 0 else FAILED


def granted_seconds(step: Step, later: Sequence[Step], left: float) -> float | None:
    """Return how long a step may take of the time that is left; None where that is too little.

    It gets its budget, and what the later steps' budgets leave over.
    """
    spare = left - sum(other.seconds for other in later)
    seconds = max(min(step.seconds, left), spare)
    return None if seconds < step.least_seconds else seconds
