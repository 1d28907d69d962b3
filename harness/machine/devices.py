"""Which device a sweep runs on, from what the worker says there is. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gqabench.attention_impls.problem import DTYPE_ITEMSIZES
from gqabench.harness.errors import UsageError
from gqabench.harness.machine.nvml import Nvml, cuda_device_uuid

AUTO = "auto"
DEFAULT_DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
"""What `dtype=auto` means: what models are served in on a GPU, what a CPU computes natively."""


def resolve_device(device: Any, *hosts: dict[str, Any]) -> dict[str, Any]:
    """The description of the device that is asked for; `auto` takes the first GPU, else the CPU.

    Environments may see different devices of the machine: one that any of their workers describes will do.
    """
    by_name: dict[str, dict[str, Any]] = {}
    for host in hosts:
        for entry in host["devices"]:
            by_name.setdefault(entry["device"], entry)
    if device == AUTO:
        return by_name.get("cuda:0", by_name["cpu"])
    name = "cuda:0" if device == "cuda" else device
    if name not in by_name:
        raise UsageError(f"device={device}: not on this machine; valid: auto, {', '.join(by_name)}")
    return by_name[name]


def identify_gpus(devices: Iterable[dict[str, Any]], nvml: Nvml, variables: Mapping[str, str]) -> None:
    """Give GPUs that a worker describes the UUIDs that the driver knows them by.

    CUDA tells the board of a MIG slice, not the slice. Where the driver's list and the worker's variables say
    for sure which device an ordinal is, that counts.
    """
    for device in devices:
        if device["uuid"] is not None:
            ordinal = int(device["device"].partition(":")[2])
            device["uuid"] = cuda_device_uuid(nvml, ordinal, variables) or device["uuid"]
            device["power_limit_w"] = nvml.describe(device["uuid"]).get("power_limit_w")


def why_not_here(device: str, dtype: str, host: dict[str, Any]) -> str | None:
    """Why an environment cannot use a device with a dtype that another one can; None when it can."""
    name = "cuda:0" if device == "cuda" else device
    entry = next((entry for entry in host["devices"] if entry["device"] == name), None)
    if entry is None:
        return f"torch {host['libraries'].get('torch')} of this environment sees no {name}"
    return None if dtype in entry["dtypes"] else f"this environment has no {dtype} on {name}"


def resolve_dtype(dtype: Any, device: dict[str, Any]) -> str:
    """The dtype that is asked for, if the device has it."""
    if dtype == AUTO:
        return DEFAULT_DTYPES[device["device"].partition(":")[0]]
    if dtype not in DTYPE_ITEMSIZES:
        raise UsageError(f"dtype={dtype}: must be one of {', '.join((AUTO, *DTYPE_ITEMSIZES))}")
    if dtype not in device["dtypes"]:
        raise UsageError(f"dtype={dtype}: {device['name']} lacks it; valid: {', '.join(device['dtypes'])}")
    return str(dtype)
