from __future__ import annotations

import pytest

from gqabench.harness.machine.nvml import ListedDevice, NullNvml, cuda_device_uuid, visible_uuids

A, B, C = "GPU-aaaa1111", "GPU-aaaa2222", "GPU-cccc3333"
ALIKE = [ListedDevice(uuid, "H200") for uuid in (A, B, C)]
SLICE, OTHER_SLICE = "MIG-dddd4444", "MIG-eeee5555"


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [A, B, C]),
        ("", []),
        ("0", [A]),
        ("2,0", [C, A]),
        (" 1, 2", [B, C]),
        ("-1", []),
        ("1,-1,0", [B]),
        ("0,3,1", [A]),  # there is no fourth GPU: the list ends before it
        ("0,1,0", []),  # a repeated one empties it
        ("1gpu2,2ampere", [B, C]),  # as strtoul reads
        ("none", []),
        ("NoDevFiles", []),  # what Slurm sets for a job without GPUs
        ("0,GPU-cccc", [A]),
        (C, [C]),
        (f"{C},{A}", [C, A]),
        ("GPU-c,GPU-aaaa2", [C, B]),
        ("GPU-aaaa", []),  # is ambiguous
        (f"{C},GPU-ffff,{A}", [C]),
        (f"{C},{C}", []),
        (f"{C},GPU-c", []),
        (f"{C},0", [C]),
        ("MIG-dddd4444", []),
    ],
)
def test_entries_are_read_as_cuda_reads_them(visible: str | None, expected: list[str]) -> None:
    assert visible_uuids(ALIKE, visible) == expected


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, [None, None]), ("1", [None]), ("GPU-b,GPU-s", ["GPU-big", "GPU-small"])]
)
def test_indices_of_unlike_gpus_are_not_to_be_known(visible: str | None, expected: list[str | None]) -> None:
    """CUDA puts the fastest first."""
    devices = [ListedDevice("GPU-small", "T4"), ListedDevice("GPU-big", "H200")]
    assert visible_uuids(devices, visible) == expected
    assert visible_uuids(devices, visible, "FASTEST_FIRST") == expected


def test_in_the_order_of_the_bus_they_are() -> None:
    devices = [ListedDevice("GPU-small", "T4"), ListedDevice("GPU-big", "H200")]
    assert visible_uuids(devices, None, "PCI_BUS_ID") == ["GPU-small", "GPU-big"]
    assert visible_uuids(devices, "1", "PCI_BUS_ID") == ["GPU-big"]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (SLICE, [SLICE]),
        (OTHER_SLICE, [OTHER_SLICE]),
        (f"{OTHER_SLICE},{SLICE}", [OTHER_SLICE, SLICE]),
        ("MIG-ffff", []),
        (f"{SLICE},{A}", [SLICE]),
    ],
)
def test_slices_are_named_by_their_uuid(visible: str, expected: list[str]) -> None:
    devices = [ListedDevice(A, "H200"), ListedDevice(B, "H200", (SLICE, OTHER_SLICE))]
    assert visible_uuids(devices, visible) == expected


def test_a_cut_gpu_named_as_a_whole_is_its_slice_where_there_is_one() -> None:
    one_slice = ListedDevice(A, "H200", (SLICE,))
    assert visible_uuids([one_slice], None) == [SLICE]
    assert visible_uuids([one_slice, *ALIKE[1:]], "0") == [SLICE]
    assert visible_uuids([one_slice, *ALIKE[1:]], A) == [SLICE]
    assert visible_uuids([one_slice, *ALIKE[1:]], "1") == [B]
    assert visible_uuids([one_slice, *ALIKE[1:]], None) == [None, None, None]
    assert visible_uuids([ListedDevice(A, "H200", (SLICE, OTHER_SLICE))], "0") == [None]
    assert visible_uuids([ListedDevice(A, "H200", ())], "0") == []


def test_an_ordinal_that_is_not_there_has_no_uuid() -> None:
    class Three(NullNvml):
        def list_devices(self) -> list[ListedDevice]:
            return ALIKE

    assert cuda_device_uuid(Three(), 1, {}) == B
    assert cuda_device_uuid(Three(), 0, {"CUDA_VISIBLE_DEVICES": "2,1"}) == C
    assert cuda_device_uuid(Three(), 2, {"CUDA_VISIBLE_DEVICES": "2,1"}) is None
    assert cuda_device_uuid(Three(), -1, {}) is None
    assert cuda_device_uuid(NullNvml(), 0, {}) is None
