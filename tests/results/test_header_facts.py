from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gqabench.results import RunHeader
from gqabench.results.comparison.environment_move import CODE, ENVIRONMENT, fact_changes
from gqabench.results.store.header_facts import (
    code_facts,
    differing,
    host_facts,
    software_facts,
    variable_facts,
)
from gqabench.results.store.machine_identity import machine_name

GPU = {"device": "cuda:0", "name": "NVIDIA H200", "uuid": "GPU-1", "driver": "570.1", "vbios": "96.1"}
MACHINE: dict[str, Any] = {
    "system": {"python": "3.12.1", "kernel": "Linux 6.1", "hostname": "a"},
    "cpu": {
        "model": "Some CPU",
        "num_logical_cores": 8,
        "microcode": "0x1",
        "firmware": "2.7",
        "turbo": False,
    },
    "devices": [{"device": "cpu", "name": "Some CPU", "uuid": None}, GPU],
    "threads": {"num_torch_threads": 8, "usable_cpus": "0-7", "OMP_WAIT_POLICY": "passive"},
    "variables": {"CUDA_VISIBLE_DEVICES": "0", "LD_PRELOAD": "x.so"},
    "libraries": {"torch": "2.13.0", "cuda": "13.0", "cudnn": None},
    "environments": {"old": {"libraries": {"torch": "2.11.0"}}},
    "plugins": {"mine": "my-kernels 1.0"},
    "code": {"git_revision": "a" * 40, "git_dirty": True},
}


@pytest.fixture
def described(header: RunHeader) -> RunHeader:
    return replace(header, machine=MACHINE)


def test_facts_by_what_they_are_of(described: RunHeader) -> None:
    assert software_facts(described) == {
        "torch": "2.13.0", "cuda": "13.0", "driver": "570.1", "python": "3.12.1", "threads": "8",
        "torch in old": "2.11.0",
    }  # fmt: skip
    assert host_facts(described) == {
        "kernel": "Linux 6.1", "microcode": "0x1", "firmware": "2.7", "turbo": "False", "GPU": "GPU-1",
        "VBIOS": "96.1", "usable CPUs": "0-7",
    }  # fmt: skip
    assert variable_facts(described) == {"OMP_WAIT_POLICY": "passive", "LD_PRELOAD": "x.so"}
    assert code_facts(described) == {
        "git revision": "aaaaaaaaaaaa+changes", "gqabench": "0.1.0", "measure": "smoke",
        "records' schema": str(described.schema_version), "plug-in mine": "my-kernels 1.0",
    }  # fmt: skip


def test_new_firmware_is_a_change_of_the_same_machine(described: RunHeader) -> None:
    cpu, gpu = MACHINE["cpu"] | {"microcode": "0x2", "firmware": "2.8"}, GPU | {"vbios": "96.2"}
    newer = replace(described, machine=MACHINE | {"cpu": cpu, "devices": [gpu]})
    assert machine_name(newer) == machine_name(described)
    changes = fact_changes([described], [newer], ENVIRONMENT)
    assert [(one.name, one.before, one.after) for one in changes] == [
        ("VBIOS", "96.1", "96.2"), ("firmware", "2.7", "2.8"), ("microcode", "0x1", "0x2"),
    ]  # fmt: skip
    assert fact_changes([described], [newer], CODE) == ()


def test_what_a_side_does_not_record_is_unknown_and_no_change(described: RunHeader) -> None:
    bare = replace(described, machine={})
    assert (software_facts(bare), host_facts(bare)) == ({}, {})
    assert fact_changes([bare], [described], ENVIRONMENT) == ()
    assert ("torch", None, "2.13.0") in list(differing([bare], [described], software_facts))


def test_a_variable_that_is_missing_was_not_set(described: RunHeader) -> None:
    unset = replace(described, machine=MACHINE | {"threads": {"num_torch_threads": 8}, "variables": {}})
    assert list(differing([unset], [described], variable_facts)) == [
        ("LD_PRELOAD", "unset", "x.so"), ("OMP_WAIT_POLICY", "unset", "passive"),
    ]  # fmt: skip


def test_several_runs_have_all_their_values(described: RunHeader) -> None:
    newer = replace(described, machine=MACHINE | {"libraries": {"torch": "2.14.0"}})
    assert list(differing([described], [described, newer, described], software_facts)) == [
        ("torch", "2.13.0", "2.13.0 and 2.14.0")
    ]
