"""Opens a case in the worker of an environment, and closes it there."""

from __future__ import annotations

from gqabench.harness.cases.case import Case
from gqabench.harness.machine.devices import why_not_here
from gqabench.harness.measure.equipment import Equipment
from gqabench.harness.workers.operations import Operations
from gqabench.harness.workers.process import RequestFailed, WorkerFailed
from gqabench.harness.workers.replies import CaseOpened
from gqabench.results import Outcome


class NotOpened(Exception):
    """No arm of the environment can be measured; `outcome` as in a record, and the message is the reason."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


def open_case(equipment: Equipment, case: Case, environment: str) -> CaseOpened:
    """Make the inputs and the reference of a case in an environment's worker. Raises `NotOpened`."""
    host = equipment.known_host(environment)
    if host is not None and (why_not := why_not_here(case.problem.device, case.problem.dtype, host)):
        raise NotOpened(Outcome.UNSUPPORTED, why_not)
    try:
        return _make_inputs(equipment, case, environment)
    except RequestFailed as refused:
        raise NotOpened(refused.failure.outcome, f"making the inputs: {refused}") from refused
    except WorkerFailed as gone:
        equipment.discard(environment)
        what = "making the inputs" if host is not None else f"starting environment {environment}"
        raise NotOpened(gone.outcome, f"{what}: {gone}") from gone


def close_case(equipment: Equipment, case: Case, environment: str) -> None:
    """Free what the case holds; end a worker that would disturb the next case.

    Every arm has its record by now: what goes wrong here is nobody's.
    """
    try:
        closed = Operations(equipment.worker(environment), case.measure.timeout_s).close_case()
    except (WorkerFailed, RequestFailed):
        equipment.discard(environment)
    else:
        if closed.is_spoilt:
            equipment.discard(environment)


def _make_inputs(equipment: Equipment, case: Case, environment: str) -> CaseOpened:
    """Open the case; in a new worker where an earlier case has spoilt the old one."""

    def ask() -> CaseOpened:
        operations = Operations(equipment.worker(environment), case.measure.timeout_s)
        asked, host = case.to_open(), equipment.known_host(environment)
        if host is None or not host.knows_huge_pages:  # of an older revision: it uses small pages anyway
            asked.pop("huge_pages", None)
        return operations.open_case(asked)

    try:
        return ask()
    except RequestFailed as refused:
        if not refused.failure.is_poisoned:
            raise
    equipment.discard(environment)
    try:
        return ask()
    except RequestFailed as refused:
        if refused.failure.is_poisoned:
            equipment.discard(environment)
        raise
