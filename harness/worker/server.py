"""The worker's loop: a request names an operation; what goes wrong becomes a reply."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import IO, Protocol

import torch

from gqabench.attention_impls import BrokenImpl, InvalidProblem
from gqabench.attention_impls.plugins.old_names import take_notices
from gqabench.harness.worker.contract_checks import BrokenPromise, IncorrectOutput
from gqabench.harness.worker.host import describe_host
from gqabench.harness.worker.open_case import OpenCase
from gqabench.harness.worker.session import Session
from gqabench.harness.worker.shared_state import SharedState
from gqabench.harness.worker.subjects.subject import UnsupportedProblem
from gqabench.harness.worker.support import explain_support
from gqabench.harness.worker.timing.roofs import measure_roofs
from gqabench.harness.workers.protocol import Message, receive, send
from gqabench.harness.workers.replies import Failure

_CPU_OUT_OF_MEMORY = "can't allocate memory"
"""What PyTorch's CPU allocator says in its plain RuntimeError."""


class Answer(Protocol):
    """What an operation returns."""

    def to_dict(self) -> Message:
        """Return plain values."""
        ...


Operation = Callable[..., Answer]


def serve(requests: IO[str], replies: IO[str]) -> None:
    """Answer requests until there are no more."""
    operations = operations_of(Session())
    while (request := receive(requests)) is not None:
        operation = operations[request.pop("op")]
        before = SharedState.now()
        answer = _answer(operation, request)
        answer = _spoilt_by(SharedState.now().changes_since(before), answer)
        notices = take_notices()
        reply = {"ok": not isinstance(answer, Failure), **answer.to_dict()}
        send(replies, reply | {"notices": notices} if notices else reply)


def operations_of(session: Session) -> dict[str, Operation]:
    """Return what can be asked for, by the names that requests of any revision use."""

    def of_case(method: Operation) -> Operation:
        return lambda **arguments: method(session.case, **arguments)

    return {
        "describe_host": describe_host,
        "measure_roofs": measure_roofs,
        "explain_support": explain_support,
        "open_case": session.open_case,
        "prepare": of_case(OpenCase.prepare),
        "weigh": of_case(OpenCase.measure_memory),
        "measure": of_case(OpenCase.measure),
        "verify": of_case(OpenCase.verify),
        "cross_check": of_case(OpenCase.cross_check),
        "run_for": of_case(OpenCase.run_for),
        "drop": of_case(OpenCase.drop),
        "close_case": session.close_case,
    }


def _spoilt_by(changes: list[str], answer: Answer) -> Answer:
    """Return the answer, or why it no longer counts: shared state has changed, and this worker is spoilt."""
    if not changes:
        return answer
    changed = f"it changed state that all implementations share: {', '.join(changes)}"
    failure = answer if isinstance(answer, Failure) else Failure(outcome="error", reason="")
    reason = "; ".join(filter(None, [failure.reason, changed]))
    return replace(failure, reason=reason, is_poisoned=True)


def _answer(operation: Operation, arguments: Message) -> Answer:
    try:
        return operation(**arguments)
    except UnsupportedProblem as error:
        return Failure(outcome="unsupported", reason=str(error))
    except IncorrectOutput as error:
        return Failure(
            outcome="incorrect",
            reason=str(error),
            max_error=error.max_error,
            error_ratio=error.error_ratio,
        )
    except BrokenPromise as error:
        return Failure(outcome="incorrect", reason=str(error))
    except torch.OutOfMemoryError as error:
        return Failure(outcome="oom", reason=_first_line(error))
    except BrokenImpl as error:
        return Failure(outcome="error", reason=str(error))
    except BaseException as error:  # noqa: BLE001  whatever an implementation raises is the reason of its row
        traceback.print_exc()
        if isinstance(error, (MemoryError, RuntimeError)) and _is_cpu_out_of_memory(error):
            return Failure(outcome="oom", reason=_first_line(error))
        reason = _first_line(error)
        if not isinstance(error, InvalidProblem) and reason != type(error).__name__:
            reason = f"{type(error).__name__}: {reason}"
        return Failure(outcome="error", reason=reason, is_poisoned=_has_lost_device())


def _is_cpu_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or _CPU_OUT_OF_MEMORY in str(error)


def _has_lost_device() -> bool:
    """Return whether no kernel can run any more: an illegal access has destroyed CUDA's context.

    The device is asked, not the error: each library words it in its own way, and a launch that was refused
    leaves the context as it was.
    """
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
        torch.ones(1, device="cuda").add_(1).sum().item()
    except RuntimeError:
        return True
    return False


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
