"""What an implementation must not do while it is prepared and called, and what its outputs must be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from gqabench.harness.worker.subjects.subject import Check, Subject


class IncorrectOutput(Exception):
    """An output that differs from the reference by more than its budget; the message says how."""

    def __init__(self, check: Check, when: str) -> None:
        super().__init__(f"{check.complaint} ({when})")
        self.max_error = check.max_error
        self.error_ratio = check.error_ratio


class BrokenPromise(Exception):
    """An implementation does what its contract rules out; the message says what."""


def require_correct(subject: Subject, output: object, variant: int, when: str) -> Check:
    """Check an output against the reference. Raises `IncorrectOutput`."""
    check = subject.check(output, variant)
    if not check.is_correct:
        raise IncorrectOutput(check, when)
    return check


def require_promised(promised: tuple[str, ...], operators: Sequence[str], kernels: Sequence[str]) -> None:
    """Raise `BrokenPromise` unless one of the operators that ran begins as promised; any will do for none."""
    if promised and not any(name.startswith(promised) for name in operators):
        raise BrokenPromise(f"promised {' or '.join(promised)}, ran {', '.join(kernels)}")


@contextmanager
def calling(subject: Subject) -> Iterator[None]:
    """Enter the grad mode of calls. Raises `BrokenPromise` when it is left changed."""
    with subject.calling_mode():
        before = _grad_modes()
        yield
        if _grad_modes() != before:
            raise BrokenPromise("it changed the grad mode, which others share, and left it so")


@contextmanager
def guarding_inputs(subject: Subject) -> Iterator[None]:
    """Restore keys and values that are written into. Raises `BrokenPromise` when that happened."""
    try:
        yield
    finally:
        was_changed = subject.guard.restore_if_changed()
    if was_changed:
        raise BrokenPromise("it wrote into the keys or values that it was given, which others read too")


def _grad_modes() -> tuple[bool, bool]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()
