"""What workers answer: the types that the parent reads, and replies that workers of older revisions sent."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from gqabench.harness.machine.host import HostDescription
from gqabench.harness.machine.roofs import Roofs
from gqabench.harness.worker.server import operations_of
from gqabench.harness.worker.session import Session
from gqabench.harness.workers import replies
from gqabench.harness.workers.protocol import PROTOCOL_VERSION
from gqabench.harness.workers.replies import (
    ArmPrepared,
    CallMemory,
    CallsMade,
    CallTimes,
    CaseClosed,
    CaseOpened,
    CrossCheck,
    Failure,
    Nothing,
    OutputErrors,
    RecordFields,
    Support,
)
from gqabench.results.record import RECORD_FIELDS

TYPES: dict[str, Any] = {
    "describe_host": HostDescription,
    "measure_roofs": Roofs,
    "explain_support": Support,
    "open_case": CaseOpened,
    "prepare": ArmPrepared,
    "weigh": CallMemory,
    "measure": CallTimes,
    "verify": OutputErrors,
    "cross_check": CrossCheck,
    "run_for": CallsMade,
    "drop": Nothing,
    "close_case": CaseClosed,
}
"""By the names of operations on the wire"""

RECORDED = [
    json.loads(line)
    for line in Path(__file__).with_name("replies_of_older_workers.jsonl").read_text().splitlines()
]
"""Sent by workers of two revisions that speak this protocol: its first, and the last before this test"""


def read(recorded: dict[str, Any]) -> Any:
    kind = TYPES[recorded["op"]] if recorded["reply"]["ok"] else Failure
    return kind.from_dict(recorded["reply"])


def test_every_operation_has_a_type() -> None:
    assert operations_of(Session()).keys() == TYPES.keys()


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda one: f"{one['revision']} {one['op']}")
def test_replies_of_older_workers_are_read(recorded: dict[str, Any]) -> None:
    reply = read(recorded)
    sent = recorded["reply"]
    known = {item.name for item in fields(reply)} & sent.keys() - {"devices"}
    assert {name: getattr(reply, name) for name in known} == {name: sent[name] for name in known}


def test_what_an_older_worker_did_not_send_is_null() -> None:
    first = {one["op"]: read(one) for one in RECORDED if one["revision"] == "a870afd" and one["reply"]["ok"]}
    assert first["prepare"].prepared_unseen_bytes is None
    assert first["prepare"].prefill_ms is None
    assert first["weigh"].unexplained_bytes is None
    assert first["describe_host"].protocol_version == PROTOCOL_VERSION
    assert first["describe_host"].device("cpu").power_limit_w is None
    assert first["measure_roofs"].matmul["float32"].best > 0
    assert not first["close_case"].is_spoilt


def test_keys_that_a_newer_worker_sends_are_ignored() -> None:
    assert CallTimes.from_dict({"ok": True, "samples_ms": [1.0], "colour": "blue"}) == CallTimes(
        samples_ms=[1.0]
    )


def test_what_a_reply_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="lacks num_calls, seconds"):
        CallsMade.from_dict({"ok": True})
    with pytest.raises(ValueError, match="lacks name, uuid, dtypes"):
        HostDescription.from_dict({"devices": [{"device": "cpu"}]})


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda one: f"{one['revision']} {one['op']}")
def test_a_reply_comes_back_as_it_was_sent(recorded: dict[str, Any]) -> None:
    reply = read(recorded)
    assert type(reply).from_dict(json.loads(json.dumps(reply.to_dict()))) == reply


def test_fields_of_a_record_have_its_names() -> None:
    kinds = [one for one in vars(replies).values() if isinstance(one, type) and issubclass(one, RecordFields)]
    assert len(kinds) >= 6
    for kind in kinds:
        assert is_dataclass(kind)
        assert {item.name for item in fields(kind)} <= set(RECORD_FIELDS)


def test_a_host_description_is_plain_values_with_what_is_known(gpu_host: HostDescription) -> None:
    plain = gpu_host.to_dict()
    assert plain["devices"][0] == {
        "device": "cpu",
        "name": "some CPU",
        "uuid": None,
        "dtypes": ["float32", "float16", "bfloat16"],
    }
    assert plain.keys() == asdict(gpu_host).keys()


@pytest.mark.parametrize(("name", "found"), [("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:1", None)])
def test_a_device_is_found_by_its_name(gpu_host: HostDescription, name: str, found: str | None) -> None:
    device = gpu_host.device(name)
    assert (None if device is None else device.device) == found
