"""What a run's header says of its software, its host and its code, for a comparison to name what differs.

None of them is part of a machine's name (`machine_identity`): runs before and after a new driver or microcode
are of one machine, and are compared. Older headers lack some facts; what is not recorded is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gqabench.results.store.machine_identity import revision_text
from gqabench.results.store.run_folder import RunHeader

Facts = dict[str, str]
FactsOf = Callable[[RunHeader], Facts]
UNSET = "unset"

_SYSTEM = {"os": "operating system", "kernel": "kernel", "c_library": "C library"}
_CPU = {
    "microcode": "microcode", "firmware": "firmware", "hypervisor": "hypervisor", "smt": "SMT",
    "turbo": "turbo", "governor": "CPU governor", "frequency_driver": "CPU frequency driver",
    "energy_preference": "CPU energy preference", "frequency_limit_mhz": "CPU frequency limit (MHz)",
    "torch_capability": "vector instructions of torch",
}  # fmt: skip
_GPU = {
    "uuid": "GPU", "cuda_driver": "CUDA of the driver", "vbios": "VBIOS", "power_limit_w": "power limit (W)",
    "ecc": "ECC", "mig_mode": "MIG mode",
}  # fmt: skip
_SAID_BY_UUID = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
"""Variables that choose GPUs, which the GPUs' own numbers tell: containers name them anew each time."""


def software_facts(header: RunHeader) -> Facts:
    """Return versions of libraries, driver and interpreter, and the number of threads."""
    machine = header.machine
    facts = _named(_mapping(machine.get("libraries")))
    facts |= _of_devices(machine, "driver", "driver")
    facts |= _text("python", _mapping(machine.get("system")).get("python"))
    facts |= _text("threads", _mapping(machine.get("threads")).get("num_torch_threads"))
    for environment, described in _mapping(machine.get("environments")).items():
        libraries = _named(_mapping(_mapping(described).get("libraries")))
        facts |= {f"{name} in {environment}": version for name, version in libraries.items()}
    return facts


def host_facts(header: RunHeader) -> Facts:
    """Return firmware, kernel, and the settings of CPU and GPUs."""
    machine = header.machine
    system, cpu = _mapping(machine.get("system")), _mapping(machine.get("cpu"))
    facts: Facts = {}
    for key, name in _SYSTEM.items():
        facts |= _text(name, system.get(key))
    for key, name in _CPU.items():
        facts |= _text(name, cpu.get(key))
    for key, name in _GPU.items():
        facts |= _of_devices(machine, key, name)
    facts |= _text("CPU quota (cores)", _mapping(machine.get("limits")).get("cpu_quota_cores"))
    facts |= _text("transparent huge pages", _mapping(machine.get("memory")).get("transparent_huge_pages"))
    return facts | _text("usable CPUs", _mapping(machine.get("threads")).get("usable_cpus"))


def variable_facts(header: RunHeader) -> Facts:
    """Return the environment variables that were set, of those that can change a measurement."""
    sections = (_mapping(header.machine.get(section)) for section in ("threads", "variables"))
    variables = {name: value for section in sections for name, value in section.items() if name.isupper()}
    return _named({name: value for name, value in variables.items() if name not in _SAID_BY_UUID})


def code_facts(header: RunHeader) -> Facts:
    """Return what of the code and of the method ran: revision, versions, plug-ins, preset, schema."""
    facts: Facts = {}
    for name, value in (
        ("git revision", revision_text(header)),
        ("gqabench", header.gqabench_version),
        ("measure", header.measure),
        ("records' schema", header.schema_version),
    ):
        facts |= _text(name, value)
    plugins = _named(_mapping(header.machine.get("plugins")))
    return facts | {f"plug-in {name}": version for name, version in plugins.items()}


def differing(
    before: Sequence[RunHeader], after: Sequence[RunHeader], facts_of: FactsOf
) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield name, earlier and later values of the facts that differ; None is what is not recorded.

    A variable that is missing was not set, where a side describes its threads at all.
    """
    old, new = _of_all(before, facts_of), _of_all(after, facts_of)
    are_told = all(_mapping(header.machine.get("threads")) for header in (*before, *after))
    missing = UNSET if facts_of is variable_facts and are_told else None
    for name in sorted(old.keys() | new.keys()):
        values = old.get(name, missing), new.get(name, missing)
        if values[0] != values[1]:
            yield name, *values


def _of_all(headers: Sequence[RunHeader], facts_of: FactsOf) -> Facts:
    """Return the facts of several headers: of each fact all its values."""
    found: dict[str, dict[str, None]] = {}
    for header in headers:
        for name, value in facts_of(header).items():
            found.setdefault(name, {})[value] = None
    return {name: " and ".join(values) for name, values in found.items()}


def _of_devices(machine: Mapping[str, Any], key: str, name: str) -> Facts:
    values = {str(device[key]) for device in machine.get("devices") or [] if device.get(key) is not None}
    return {name: ", ".join(sorted(values))} if values else {}


def _named(values: Mapping[str, Any]) -> Facts:
    return {str(name): str(value) for name, value in values.items() if value not in (None, "")}


def _text(name: str, value: Any) -> Facts:
    return {} if value in (None, "") else {name: str(value)}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
