"""Which device a sweep runs on, from what the worker says there is. Imports no torch."""

from __future__ import annotations

from typing import Any

from attention_impls.problem import DTYPE_ITEMSIZES
from harness.errors import UsageError

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
