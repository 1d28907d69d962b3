"""What a worker's interpreter can use: its devices and its libraries. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gqabench.harness.plain_values import from_plain


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device that torch can use."""

    device: str
    """As torch names it: `cpu`, `cuda:0`"""
    name: str
    """Of the model, as the vendor writes it"""
    uuid: str | None
    """Of a GPU, as NVML knows it; None for the CPU"""
    dtypes: Sequence[str]
    """What attention can be computed in"""
    last_level_cache_bytes: int | None = None
    compute_capability: str | None = None
    num_multiprocessors: int | None = None
    memory_bytes: int | None = None
    power_limit_w: float | None = None
    """Of a GPU; the parent adds it"""

    @property
    def kind(self) -> str:
        """`cpu` or `cuda`."""
        return self.device.partition(":")[0]

    @property
    def ordinal(self) -> int:
        """The number of a GPU, as CUDA counts."""
        return int(self.device.partition(":")[2])

    def to_dict(self) -> dict[str, Any]:
        """Return what is known, as plain values."""
        return {key: value for key, value in asdict(self).items() if value is not None or key == "uuid"}


@dataclass(frozen=True, kw_only=True)
class HostDescription:
    """What a worker says of its interpreter and of the machine that it runs on."""

    protocol_version: int
    python: str
    num_threads: int
    """That torch computes with on a CPU"""
    devices: tuple[Device, ...]
    """The CPU first"""
    libraries: Mapping[str, str]
    """Versions by name, of those that can change an attention kernel"""
    impls: Sequence[str] = ()
    """Names of the implementations that it knows"""
    plugins: Mapping[str, str] = field(default_factory=dict)
    """Packages and versions of implementations from entry points, by name of implementation"""
    cuda: str | None = None
    """The CUDA version that torch was built for"""
    cudnn: int | None = None
    driver: str | None = None
    """Version of the NVIDIA kernel module"""
    cpu_capability: str | None = None
    """The vector instructions that torch uses, as `AVX2`"""
    knows_huge_pages: bool = False
    """Whether it can be told to leave memory on small pages; workers of older revisions always do"""

    def device(self, name: str) -> Device | None:
        """Return a device by its name, where `cuda` is the first GPU; None where there is no such device."""
        wanted = "cuda:0" if name == "cuda" else name
        return next((device for device in self.devices if device.device == wanted), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"devices": [device.to_dict() for device in self.devices]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HostDescription:
        """Build from plain values, such as a worker of another revision sends. Raises `ValueError`."""
        devices = tuple(from_plain(Device, device) for device in values.get("devices", ()))
        return from_plain(cls, {**values, "devices": devices})
