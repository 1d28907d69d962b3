"""Which device a sweep runs on, from what the worker says there is. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from gqabench.attention_impls.problem import DTYPE_ITEMSIZES
from gqabench.harness.errors import UsageError
from gqabench.harness.machine.host import Device, HostDescription
from gqabench.harness.machine.nvml import Nvml, cuda_device_uuid

AUTO = "auto"
DEFAULT_DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
"""What `dtype=auto` means: what models are served in on a GPU, what a CPU computes natively."""


def resolve_device(device: Any, *hosts: HostDescription) -> Device:
    """Return the device that is asked for; `auto` takes the first GPU, else the CPU.

    Environments may see different devices of the machine: one that any of their workers describes will do.
    Raises `UsageError`.
    """
    by_name: dict[str, Device] = {}
    for host in hosts:
        for one in host.devices:
            by_name.setdefault(one.device, one)
    if device == AUTO:
        return by_name.get("cuda:0", by_name["cpu"])
    name = "cuda:0" if device == "cuda" else device
    if name not in by_name:
        raise UsageError(f"device={device}: not on this machine; valid: auto, {', '.join(by_name)}")
    return by_name[name]


def identify_gpus(devices: Iterable[Device], nvml: Nvml, variables: Mapping[str, str]) -> tuple[Device, ...]:
    """Return a worker's devices, with the UUIDs that the driver knows GPUs by, and their power limits.

    CUDA tells the board of a MIG slice, not the slice. Where the driver's list and the worker's variables say
    for sure which device an ordinal is, that counts.
    """
    return tuple(
        device if device.uuid is None else _identified(device, device.uuid, nvml, variables)
        for device in devices
    )


def _identified(device: Device, uuid: str, nvml: Nvml, variables: Mapping[str, str]) -> Device:
    uuid = cuda_device_uuid(nvml, device.ordinal, variables) or uuid
    return replace(device, uuid=uuid, power_limit_w=nvml.describe(uuid).get("power_limit_w"))


def why_not_here(name: str, dtype: str, host: HostDescription) -> str | None:
    """Return why an environment cannot use a device with a dtype that another one can; None when it can."""
    device = host.device(name)
    if device is None:
        seen = "cuda:0" if name == "cuda" else name
        return f"torch {host.libraries.get('torch')} of this environment sees no {seen}"
    return None if dtype in device.dtypes else f"this environment has no {dtype} on {device.device}"


def resolve_dtype(dtype: Any, device: Device) -> str:
    """Return the dtype that is asked for, if the device has it. Raises `UsageError`."""
    if dtype == AUTO:
        return DEFAULT_DTYPES[device.kind]
    if dtype not in DTYPE_ITEMSIZES:
        raise UsageError(f"dtype={dtype}: must be one of {', '.join((AUTO, *DTYPE_ITEMSIZES))}")
    if dtype not in device.dtypes:
        raise UsageError(f"dtype={dtype}: {device.name} lacks it; valid: {', '.join(device.dtypes)}")
    return str(dtype)
