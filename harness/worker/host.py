"""What this worker's interpreter can use: devices, their dtypes, and the versions of what is installed."""

from __future__ import annotations

import platform
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from harness.worker.cache_flush import last_level_cache_bytes
from harness.worker.protocol import PROTOCOL_VERSION
from harness.worker.workspace import warm_up_profiler

_REPORTED_LIBRARIES = (
    "torch", "triton", "numpy", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "flash-attn", "flashinfer-python",
    "xformers", "transformers", "onnxruntime", "jax",
)  # fmt: skip
"""Libraries whose version can change an attention kernel."""

_BF16_CAPABILITY = (8, 0)


def describe_host() -> dict[str, Any]:
    """Plain values; also loads what the first case would otherwise wait for."""
    warm_up_profiler()
    return {
        "protocol_version": PROTOCOL_VERSION,
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "num_threads": torch.get_num_threads(),
        "libraries": _library_versions(),
        "devices": [_describe_cpu(), *(_describe_gpu(index) for index in range(torch.cuda.device_count()))],
    }


def _describe_cpu() -> dict[str, Any]:
    return {
        "device": "cpu",
        "name": _cpu_name(),
        "uuid": None,
        "dtypes": ["float32", "float16", "bfloat16"],
        "last_level_cache_bytes": last_level_cache_bytes("cpu"),
    }


def _describe_gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    dtypes = ["float32", "float16"]
    if (properties.major, properties.minor) >= _BF16_CAPABILITY:
        dtypes.append("bfloat16")
    return {
        "device": f"cuda:{index}",
        "name": properties.name,
        "uuid": f"GPU-{properties.uuid}",
        "dtypes": dtypes,
        "last_level_cache_bytes": properties.L2_cache_size,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "num_multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _library_versions() -> dict[str, str]:
    installed = {dist.metadata["Name"].lower(): dist.version for dist in distributions()}
    return {name: installed[name] for name in _REPORTED_LIBRARIES if name in installed}
