"""The worker's loop: a request names a method of the session; what goes wrong becomes a reply."""

from __future__ import annotations

import traceback
from typing import IO, Any

import torch

from gqabench.attention_impls import BrokenImpl, InvalidProblem
from gqabench.attention_impls.plugins.old_names import take_notices
from gqabench.harness.worker.host import describe_host
from gqabench.harness.worker.session import BrokenPromise, IncorrectOutput, Session
from gqabench.harness.worker.shared_state import SharedState
from gqabench.harness.worker.subjects.subject import UnsupportedProblem
from gqabench.harness.worker.support import explain_support
from gqabench.harness.worker.timing.roofs import measure_roofs
from gqabench.harness.workers.protocol import Message, receive, send

_CPU_OUT_OF_MEMORY = "can't allocate memory"
"""What PyTorch's CPU allocator says in its plain RuntimeError."""


def serve(requests: IO[str], replies: IO[str]) -> None:
    """Answer requests until there are no more."""
    session = Session()
    operations = {
        "describe_host": describe_host,
        "measure_roofs": measure_roofs,
        "explain_support": explain_support,
        "open_case": session.open_case,
        "prepare": session.prepare,
        "weigh": session.weigh,
        "measure": session.measure,
        "verify": session.verify,
        "cross_check": session.cross_check,
        "run_for": session.run_for,
        "drop": session.drop,
        "close_case": session.close_case,
    }
    while (request := receive(requests)) is not None:
        operation = operations[request.pop("op")]
        before = SharedState.now()
        reply = _answer(operation, request)
        reply = _with_changes(reply, SharedState.now().changes_since(before))
        send(replies, reply | {"notices": notices} if (notices := take_notices()) else reply)


def _with_changes(reply: Message, changes: list[str]) -> Message:
    """The reply, or why it no longer counts: what all share has changed, and this worker is spoilt."""
    if not changes:
        return reply
    changed = f"it changed what all implementations share: {', '.join(changes)}"
    failure = (
        _failure("error", changed) if reply["ok"] else reply | {"reason": f"{reply['reason']}; {changed}"}
    )
    return failure | {"is_poisoned": True}


def _answer(operation: Any, arguments: Message) -> Message:
    try:
        return {"ok": True, **(operation(**arguments) or {})}
    except UnsupportedProblem as error:
        return _failure("unsupported", str(error))
    except IncorrectOutput as error:
        return _failure("incorrect", str(error)) | {
            "max_error": error.max_error,
            "error_ratio": error.error_ratio,
        }
    except BrokenPromise as error:
        return _failure("incorrect", str(error))
    except torch.OutOfMemoryError as error:
        return _failure("oom", _first_line(error))
    except BrokenImpl as error:
        return _failure("error", str(error))
    except BaseException as error:  # noqa: BLE001  whatever an implementation raises is the reason of its row
        traceback.print_exc()
        if isinstance(error, (MemoryError, RuntimeError)) and _is_cpu_out_of_memory(error):
            return _failure("oom", _first_line(error))
        reason = _first_line(error)
        if not isinstance(error, InvalidProblem) and reason != type(error).__name__:
            reason = f"{type(error).__name__}: {reason}"
        return _failure("error", reason) | {"is_poisoned": _has_lost_device()}


def _failure(outcome: str, reason: str) -> Message:
    return {"ok": False, "outcome": outcome, "reason": reason}


def _is_cpu_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or _CPU_OUT_OF_MEMORY in str(error)


def _has_lost_device() -> bool:
    """Whether no kernel can run any more, whoever asks: after an illegal access CUDA's context is lost.

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
