"""The machine and its software, described once for a run. Imports no torch: the worker tells its part.

What is not known is left out.
"""

from __future__ import annotations

import os
import platform
from typing import Any

from gqabench.harness.machine.cpu import describe_cpu
from gqabench.harness.machine.host import HostDescription
from gqabench.harness.machine.kernel_files import without_unknown
from gqabench.harness.machine.limits import describe_limits, describe_memory
from gqabench.harness.machine.nvml import Nvml
from gqabench.harness.machine.source import (
    LOCK,
    SOURCE_ROOT,
    git_state,
    gqabench_version,
    lock_hash,
    source_hash,
)

_THREAD_VARIABLES = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ATEN_")
"""How the names of variables begin that set threads."""
_OTHER_VARIABLES = (
    "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING", "CUDA_VISIBLE_DEVICES", "LD_PRELOAD",
    "MALLOC_ARENA_MAX", "NVIDIA_TF32_OVERRIDE", "NVIDIA_VISIBLE_DEVICES", "ONEDNN_MAX_CPU_ISA",
    "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "THP_MEM_ALLOC_ENABLE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TRITON_INTERPRET",
)  # fmt: skip
"""Variables that can change a measurement. Others may hold secrets and stay out of a run."""


def describe_machine(host: HostDescription, nvml: Nvml) -> dict[str, Any]:
    """Describe the machine in sections, as a run's header has them; `host` is what its worker says."""
    return without_unknown(
        {
            "system": describe_system() | {"python": host.python},
            "cpu": describe_cpu() | {"torch_capability": host.cpu_capability},
            "memory": describe_memory(),
            "limits": describe_limits(),
            "devices": [
                device.to_dict() | (nvml.describe(device.uuid) if device.uuid is not None else {})
                for device in host.devices
            ],
            "threads": {
                "num_torch_threads": host.num_threads,
                "usable_cpus": usable_cpus(),
                **_variables(_THREAD_VARIABLES),
            },
            "variables": _variables(_OTHER_VARIABLES),
            "libraries": {**host.libraries, "cuda": host.cuda, "cudnn": host.cudnn},
            "plugins": dict(host.plugins),
            "code": {
                "gqabench": gqabench_version(),
                "source_hash": source_hash(),
                "lock_sha256": lock_hash(LOCK),
                **git_state(SOURCE_ROOT),
            },
        }
    )


def describe_system() -> dict[str, Any]:
    """Describe the operating system, and what every process of it shares."""
    c_library = " ".join(platform.libc_ver())
    return {
        "hostname": platform.node(),
        "os": _os_release().get("PRETTY_NAME") or platform.system(),
        "kernel": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "c_library": c_library.strip() or None,
        "python_implementation": platform.python_implementation(),
        "python_build": " ".join(platform.python_compiler().split()),
    }


def usable_cpus() -> str | None:
    """Return the CPUs that this process may run on, as the kernel writes lists of them: `0-3,8`."""
    return _range_text(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _variables(names: tuple[str, ...]) -> dict[str, str]:
    """Return the environment variables with one of these prefixes."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(names)}


def _range_text(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
