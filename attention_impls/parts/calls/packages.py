"""Optional packages, which are looked up without importing them."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version

REQUIREMENTS = {
    "onnxruntime": "onnx>=1.17 onnxruntime>=1.20",
    "onnxruntime-gpu": "onnx>=1.17 onnxruntime-gpu>=1.20",
    "transformers": "transformers>=5",
    "flash-attn-2": "flash-attn>=2.7",
    "flash-attn-3": "tokenspeed-fa3",
    "flash-attn-4": "flash-attn-4>=4.0.0b1",
    "flashinfer": "flashinfer-python>=0.6",
    "xformers": "xformers>=0.0.35",
    "cudnn": "nvidia-cudnn-frontend>=1.26",
    "jax": "jax[cuda13]>=0.6",
}
"""The requirements of pyproject.toml's extras: an environment that only measures cannot install extras."""


def is_installed(module: str) -> bool:
    """Return whether a top-level module can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def package_reasons(module: str, extra: str) -> list[str]:
    """Return why an implementation that needs a module of one of this project's extras cannot run here."""
    if is_installed(module):
        return []
    wanted = " ".join(f"'{requirement}'" for requirement in REQUIREMENTS[extra].split())
    return [f"the package {module} is not installed: pip install {wanted}"]


def package_version(distribution: str) -> str | None:
    """Return the version of an installed distribution; None if there is none of that name."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
