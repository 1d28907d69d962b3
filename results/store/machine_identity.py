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


def software_facts(header: RunHeader) -> dict[str, str]:
    """Return versions that a comparison names where they differ: libraries, driver, code, threads, schema."""
    machine = header.machine
    threads = _mapping(machine.get("threads"))
    facts = {name: str(version) for name, version in _mapping(machine.get("libraries")).items() if version}
    drivers = {str(device["driver"]) for device in machine.get("devices") or [] if device.get("driver")}
    facts |= {"driver": ", ".join(sorted(drivers))} if drivers else {}
    for key, value in (
        ("python", _mapping(machine.get("system")).get("python")),
        ("threads", threads.get("num_torch_threads")),
        ("git revision", revision_text(header)),
        ("gqabench", header.gqabench_version),
        ("measure", header.measure),
        ("records' schema", header.schema_version),
    ):
        if value is not None:
            facts[key] = str(value)
    for environment, described in _mapping(machine.get("environments")).items():
        libraries = _mapping(_mapping(described).get("libraries"))
        facts |= {f"{name} in {environment}": str(version) for name, version in libraries.items() if version}
    return facts


def revision_text(header: RunHeader) -> str | None:
    """Return git revision of the code that ran, shortened, with a mark where the checkout was changed."""
    code = _mapping(header.machine.get("code"))
    revision = code.get("git_revision")
    return None if revision is None else str(revision)[:12] + ("+changes" if code.get("git_dirty") else "")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
