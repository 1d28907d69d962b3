"""Which device a sweep runs on, from what the worker says there is. Imports no torch."""

from __future__ import annotations

from typing import Any

from attention_impls.problem import DTYPE_ITEMSIZES
from harness.errors import UsageError

AUTO = "auto"
DEFAULT_DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
"""What `dtype=auto` means: what models are served in on a GPU, what a CPU computes natively."""


def resolve_device(device: Any, host: dict[str, Any]) -> dict[str, Any]:
    """The host's description of the device that is asked for; `auto` takes the first GPU, else the CPU."""
    by_name: dict[str, dict[str, Any]] = {entry["device"]: entry for entry in host["devices"]}
    if device == AUTO:
        return by_name.get("cuda:0", by_name["cpu"])
    name = "cuda:0" if device == "cuda" else device
    if name not in by_name:
        raise UsageError(f"device={device}: not on this machine; valid: auto, {', '.join(by_name)}")
    return by_name[name]


def resolve_dtype(dtype: Any, device: dict[str, Any]) -> str:
    """The dtype that is asked for, if the device has it."""
    if dtype == AUTO:
        return DEFAULT_DTYPES[device["device"].partition(":")[0]]
    if dtype not in DTYPE_ITEMSIZES:
        raise UsageError(f"dtype={dtype}: must be one of {', '.join((AUTO, *DTYPE_ITEMSIZES))}")
    if dtype not in device["dtypes"]:
        raise UsageError(f"dtype={dtype}: {device['name']} lacks it; valid: {', '.join(device['dtypes'])}")
    return str(dtype)
