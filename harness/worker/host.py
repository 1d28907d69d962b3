"""What this worker's interpreter can use: devices, their dtypes, and the versions of what is installed."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch

from gqabench.attention_impls import list_impls
from gqabench.attention_impls.parts.calls.packages import package_version
from gqabench.attention_impls.plugins.entry_points import plugin_versions
from gqabench.harness.machine.host import Device, HostDescription
from gqabench.harness.worker.memory.profiler import warm_up_profiler
from gqabench.harness.worker.timing.cache_flush import last_level_cache_bytes
from gqabench.harness.workers.protocol import PROTOCOL_VERSION

_REPORTED_LIBRARIES = (
    "torch", "triton", "numpy", "nvidia-cublas", "nvidia-cublas-cu12", "nvidia-cudnn-cu13",
    "nvidia-cudnn-cu12", "nvidia-cudnn-frontend", "nvidia-cutlass-dsl", "flash-attn", "flash-attn-3",
    "flash-attn-4", "fa3-fwd", "tokenspeed-fa3", "flashinfer-python", "flashinfer-cubin",
    "flashinfer-jit-cache", "apache-tvm-ffi", "xformers", "transformers", "kernels", "onnxruntime",
    "onnxruntime-gpu", "jax", "jaxlib",
)  # fmt: skip
"""Libraries whose version can change an attention kernel."""

_BF16_CAPABILITY = (8, 0)
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_DRIVER_VERSION = re.compile(r"Kernel Module.*?\s(\d+\.[\d.]+)")
_BUILD_LIBRARIES = {"mkl": r"Math Kernel Library Version ([\d.]+)", "onednn": r"MKL-DNN v([\d.]+)"}
"""Libraries inside a build of torch, and how `torch.__config__.show()` tells their versions."""


def describe_host() -> HostDescription:
    """Describe this interpreter; also load what the first case would otherwise wait for."""
    warm_up_profiler()
    return HostDescription(
        protocol_version=PROTOCOL_VERSION,
        python=platform.python_version(),
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        driver=driver_version(),
        num_threads=torch.get_num_threads(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        knows_huge_pages=True,
        libraries=_library_versions(),
        impls=list_impls(),
        plugins=plugin_versions(),
        devices=(_describe_cpu(), *map(_describe_gpu, range(torch.cuda.device_count()))),
    )


def _describe_cpu() -> Device:
    return Device(
        device="cpu",
        name=_cpu_name(),
        uuid=None,
        dtypes=["float32", "float16", "bfloat16"],
        last_level_cache_bytes=_known_cache_bytes(),
    )


def _known_cache_bytes() -> int | None:
    """Size of the CPU's last-level cache; None where nothing tells, as in some virtual machines."""
    try:
        return last_level_cache_bytes("cpu")
    except RuntimeError:
        return None


def _describe_gpu(index: int) -> Device:
    properties = torch.cuda.get_device_properties(index)
    dtypes = ["float32", "float16"]
    if (properties.major, properties.minor) >= _BF16_CAPABILITY:
        dtypes.append("bfloat16")
    return Device(
        device=f"cuda:{index}",
        name=properties.name,
        uuid=f"GPU-{properties.uuid}",
        dtypes=dtypes,
        last_level_cache_bytes=properties.L2_cache_size,
        compute_capability=f"{properties.major}.{properties.minor}",
        num_multiprocessors=properties.multi_processor_count,
        memory_bytes=properties.total_memory,
    )


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def driver_version(file: Path = _NVIDIA_DRIVER) -> str | None:
    """Return the version of the NVIDIA kernel module; None where it is not loaded."""
    try:
        found = _DRIVER_VERSION.search(file.read_text())
    except OSError:
        return None
    return found[1] if found else None


def _library_versions() -> dict[str, str]:
    # One by one: to ask for all distributions parses the metadata of each, 0.4 s where 84 are installed.
    installed = {name: known for name in _REPORTED_LIBRARIES if (known := package_version(name))}
    build = torch.__config__.show()
    inside = {name: found[1] for name, form in _BUILD_LIBRARIES.items() if (found := re.search(form, build))}
    return installed | inside
