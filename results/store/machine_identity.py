"""Which machine a run is of: what has to be equal for two latencies to be of the same machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gqabench.results.store.run_folder import RunHeader


def machine_name(header: RunHeader) -> str | None:
    """Return devices, CPU and number of cores, as a folder's name: `amd-epyc-2-cores`, `nvidia-h200-...`.

    Not the host's name: containers draw a new one each time. None where the header does not say.
    """
    machine = header.machine
    cpu = _mapping(machine.get("cpu"))
    devices = machine.get("devices") or []
    names = [
        str(device["name"]) for device in devices if device.get("device") != "cpu" and device.get("name")
    ]
    host = [str(device["name"]) for device in devices if device.get("device") == "cpu" and device.get("name")]
    model = cpu.get("model") or (host[0] if host else None)
    if model is None and not names:
        return None
    cores = cpu.get("num_logical_cores")
    parts = [*sorted(set(names)), str(model or ""), f"{cores} cores" if cores else ""]
    if len(names) > 1:
        parts.insert(0, f"{len(names)} GPUs")
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")


def revision_text(header: RunHeader) -> str | None:
    """Return git revision of the code that ran, shortened, with a mark where the checkout was changed."""
    code = _mapping(header.machine.get("code"))
    revision = code.get("git_revision")
    return None if revision is None else str(revision)[:12] + ("+changes" if code.get("git_dirty") else "")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
