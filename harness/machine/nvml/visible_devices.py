"""Which GPU an ordinal of CUDA means, from `CUDA_VISIBLE_DEVICES` and what the driver lists."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence

from gqabench.harness.machine.nvml.interface import ListedDevice, Nvml

_LEADING_INTEGER = re.compile(r"\s*([+-]?\d+)")


def cuda_device_uuid(nvml: Nvml, ordinal: int, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the UUID of `cuda:<ordinal>` in this environment; None if there is none, or it is uncertain."""
    uuids = visible_uuids(
        nvml.list_devices(), environment.get("CUDA_VISIBLE_DEVICES"), environment.get("CUDA_DEVICE_ORDER")
    )
    return uuids[ordinal] if 0 <= ordinal < len(uuids) else None


def visible_uuids(
    devices: Sequence[ListedDevice], visible: str | None, device_order: str | None = None
) -> list[str | None]:
    """Return UUIDs in CUDA's order, for values of `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER`.

    `devices` are all GPUs in order of PCI bus. The rules are those of the CUDA C++ Programming Guide (section
    "CUDA environment variables") and, where it is silent, those that `torch.cuda` follows. Entries are
    indices, or UUIDs of one kind (`GPU-` or `MIG-`) or unambiguous beginnings of them. The first invalid one
    ends the list. A repeated one empties it. An unset variable shows all GPUs.

    An entry is None where CUDA's choice cannot be determined from outside:
    - indices count from the fastest GPU unless the order is `PCI_BUS_ID`, and "fastest" is not documented:
      they are known only where all GPUs are alike;
    - a GPU in MIG mode that is named as a whole stands for one of its slices, and may hide other GPUs (MIG
      User Guide, "CUDA Device Enumeration"): it is known only where it is the one GPU chosen, with one slice.
    """
    if visible is not None and visible.startswith("MIG-"):
        slices = [uuid for device in devices for uuid in device.mig_uuids or ()]
        return [*_named(visible, "MIG-", slices)]
    if visible is not None and visible.startswith("GPU-"):
        by_uuid = {device.uuid: device for device in devices}
        chosen = _named(visible, "GPU-", by_uuid)
        return _slices_where_cut([by_uuid[uuid] for uuid in chosen])
    indices = range(len(devices)) if visible is None else _indices(visible, len(devices))
    if device_order != "PCI_BUS_ID" and len({device.name for device in devices}) > 1:
        return [None] * len(indices)
    return _slices_where_cut([devices[index] for index in indices])


def _indices(visible: str, num_devices: int) -> list[int]:
    """Parse entries as `strtoul` does: `1gpu` is 1."""
    indices: list[int] = []
    for entry in visible.split(","):
        found = _LEADING_INTEGER.match(entry)
        index = int(found[1]) if found else -1
        if index in indices:
            return []
        if not 0 <= index < num_devices:
            break
        indices.append(index)
    return indices


def _named(visible: str, prefix: str, known: Iterable[str]) -> list[str]:
    uuids: list[str] = []
    for entry in visible.split(","):
        matches = [uuid for uuid in known if uuid.startswith(entry)]
        if not entry.startswith(prefix) or len(matches) != 1:
            break
        if matches[0] in uuids:
            return []
        uuids += matches
    return uuids


def _slices_where_cut(chosen: Sequence[ListedDevice]) -> list[str | None]:
    if all(device.mig_uuids is None for device in chosen):
        return [device.uuid for device in chosen]
    slices = [uuid for device in chosen for uuid in device.mig_uuids or ()]
    if len(chosen) == 1 and len(slices) <= 1:
        return [*slices]
    return [None] * len(chosen)
