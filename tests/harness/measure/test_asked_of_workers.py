"""What a worker is asked to open, by what it knows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gqabench.harness.machine.host import HostDescription
from gqabench.harness.measure import opening


@pytest.mark.parametrize(
    ("is_wanted", "is_known", "asked"),
    [(True, True, {}), (False, True, {"huge_pages": False}), (False, False, {})],
)
def test_a_worker_of_an_older_revision_is_not_told_to_leave_huge_pages(
    is_wanted: bool, is_known: bool, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[dict[str, Any]] = []
    host = HostDescription(
        protocol_version=1, python="3.11", num_threads=1, devices=(), libraries={}, knows_huge_pages=is_known
    )
    equipment: Any = SimpleNamespace(worker=lambda _: None, known_host=lambda _: host)
    case: Any = SimpleNamespace(
        measure=SimpleNamespace(timeout_s=1.0, huge_pages=is_wanted),
        to_open=lambda: {"seed": 0} | ({} if is_wanted else {"huge_pages": False}),
    )
    monkeypatch.setattr(opening.Operations, "open_case", lambda _, asked: sent.append(asked))
    opening._make_inputs(equipment, case, "old")
    assert sent == [{"seed": 0} | asked]
