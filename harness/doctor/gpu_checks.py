"""Whether torch can use the GPUs, and what disturbs measuring on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gqabench.harness.doctor.findings import Finding, Level
from gqabench.results.flags import HARMLESS_CLOCK_REASONS

_GIB = 2**30
_FOREIGN_GPU_BYTES = _GIB
"""More than a context of CUDA and what a display takes."""
_BUSY_GPU_SHARE = 0.02
"""A driver rounds to hundredths; one may be the driver's own."""
_CAPPED_SHARE = 0.98
"""Of the highest clock; a limit closer to it is rounding."""


def check_torch_build(has_gpu: bool, num_torch_gpus: int, libraries: Mapping[str, Any]) -> Finding | None:
    """Check for a GPU that torch cannot use."""
    if not has_gpu or num_torch_gpus > 0:
        return None
    torch = f"torch {libraries.get('torch')}"
    if libraries.get("cuda") is None:
        what, fix = (
            f"there is an NVIDIA GPU, and {torch} is built for CPUs only",
            "install a CUDA build of torch",
        )
    else:
        what = f"there is an NVIDIA GPU, and {torch} for CUDA {libraries['cuda']} does not find it"
        fix = "look at CUDA_VISIBLE_DEVICES, and at nvidia-smi for the CUDA version that the driver can do"
    return Finding("torch build", Level.PROBLEM, what, fix)


def check_gpu(
    gpu: Mapping[str, Any], foreign_bytes: int | None = None, busy_share: float | None = None
) -> list[Finding]:
    """Check what NVML reports about one GPU; what it does not report is no finding."""
    name = gpu["device"]
    findings = []
    if foreign_bytes is not None and foreign_bytes > _FOREIGN_GPU_BYTES:
        what = f"other processes hold {foreign_bytes / _GIB:.1f} GiB of it"
        findings.append(Finding(name, Level.WARNING, what, "end them (nvidia-smi lists them)"))
    if busy_share is not None and busy_share > _BUSY_GPU_SHARE:
        what = f"other processes ran kernels for {busy_share:.0%} of the time"
        findings.append(Finding(name, Level.WARNING, what, "wait for them to finish"))
    if reasons := [one for one in gpu.get("throttle_reasons") or () if one not in HARMLESS_CLOCK_REASONS]:
        what = f"it holds its clocks back: {', '.join(reasons)}"
        findings.append(Finding(name, Level.WARNING, what, "look after its cooling and its power limit"))
    limit_w, default_w = gpu.get("power_limit_w"), gpu.get("default_power_limit_w")
    if limit_w is not None and default_w is not None and limit_w < _CAPPED_SHARE * default_w:
        what = f"its power limit is {limit_w:g} W, by default it is {default_w:g} W"
        findings.append(Finding(name, Level.WARNING, what, f"sudo nvidia-smi --power-limit={default_w:g}"))
    if gpu.get("persistence_mode") is False:
        what = "persistence mode is off: the driver loads anew for each first process"
        findings.append(Finding(name, Level.NOTE, what, "sudo nvidia-smi --persistence-mode=1"))
    return findings or [Finding(name, Level.OK, f"{gpu['name']}: nothing disturbs it")]
