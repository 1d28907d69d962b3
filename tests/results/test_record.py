"""What a record refuses, and how records from before it did are lifted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gqabench.results import Outcome, Record, UnreadableRun, load_runs
from gqabench.results.record import POSITIVE_FIELDS, InvalidRecord

MakeRecord = Callable[..., Record]


def test_ok_needs_a_latency(make_record: MakeRecord) -> None:
    with pytest.raises(InvalidRecord, match="outcome=ok: needs a latency_ms"):
        make_record(latency_ms=None)


@pytest.mark.parametrize("outcome", [one for one in Outcome if one is not Outcome.OK])
def test_every_other_outcome_needs_a_reason_and_has_no_latency(
    make_record: MakeRecord, outcome: Outcome
) -> None:
    assert make_record(outcome=outcome, reason="why").latency_ms is None
    for reason in (None, "", "  "):
        with pytest.raises(InvalidRecord, match=f"outcome={outcome}: needs a reason"):
            make_record(outcome=outcome, reason=reason)
    with pytest.raises(InvalidRecord, match=f"latency_ms=1.0: must be null where outcome={outcome}"):
        make_record(outcome=outcome, reason="why", latency_ms=1.0)
    with pytest.raises(InvalidRecord, match=r"samples_ms=\[1.0\]: must be null"):
        make_record(outcome=outcome, reason="why", samples_ms=[1.0])


@pytest.mark.parametrize("name", POSITIVE_FIELDS)
def test_zero_never_stands_for_not_measured(make_record: MakeRecord, name: str) -> None:
    with pytest.raises(InvalidRecord, match=f"{name}=0: must be positive, or null"):
        make_record(**{name: 0})


def test_what_is_measured_as_zero_stays_zero(make_record: MakeRecord) -> None:
    record = make_record(max_error=0.0, peak_workspace_bytes=0, background_load=0.0)
    assert (record.max_error, record.peak_workspace_bytes, record.background_load) == (0.0, 0, 0.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, float("nan")]])
@pytest.mark.parametrize("name", ["max_error", "samples_ms", "background_load"])
def test_no_number_is_without_end(make_record: MakeRecord, name: str, value: object) -> None:
    with pytest.raises(InvalidRecord, match=f"{name}=.*: must be finite"):
        make_record(**{name: value})


def test_a_text_is_no_latency(make_record: MakeRecord) -> None:
    with pytest.raises(InvalidRecord, match="latency_ms='5': must be a number"):
        make_record(latency_ms="5")


def test_no_latency_is_without_end(make_record: MakeRecord) -> None:
    for latency_ms in (float("nan"), float("inf"), -1.0):
        with pytest.raises(InvalidRecord, match="latency_ms="):
            make_record(latency_ms=latency_ms)


@pytest.mark.parametrize(
    ("stored", "lifted"),
    [
        (
            {"latency_ms": None},
            {"outcome": "error", "reason": "stored as ok, but without a latency", "latency_ms": None},
        ),
        ({"latency_ms": 0.0, "samples_ms": [0.0]}, {"outcome": "error", "samples_ms": None}),
        ({"outcome": "oom", "reason": None}, {"reason": "no reason was stored", "latency_ms": None}),
        ({"outcome": "incorrect", "reason": "wrong"}, {"reason": "wrong", "latency_ms": None}),
        (
            {"roof_fraction": 0.0, "max_error": 0.0},
            {"roof_fraction": None, "max_error": 0.0, "outcome": "ok"},
        ),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_what_older_versions_stored_is_lifted(
    tmp_path: Path, make_record: MakeRecord, version: int, stored: dict[str, Any], lifted: dict[str, Any]
) -> None:
    row = make_record().to_dict() | {"schema_version": version} | stored
    (tmp_path / "old.jsonl").write_text(json.dumps(row) + "\n")
    (loaded,) = load_runs(tmp_path / "old.jsonl").rows
    assert {name: loaded[name] for name in lifted} == lifted
    Record.from_dict(loaded)  # and is a record of this version


def test_a_row_of_this_version_that_no_record_is_is_refused(tmp_path: Path, make_record: MakeRecord) -> None:
    row = make_record().to_dict() | {"latency_ms": None}
    (tmp_path / "new.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UnreadableRun, match=r"new\.jsonl:1: outcome=ok: needs a latency_ms"):
        load_runs(tmp_path / "new.jsonl")
