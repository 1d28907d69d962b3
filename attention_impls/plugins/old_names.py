"""Import names from before `gqabench`, such as `attention_impls.contract`, which outside code may still use.

They stand for today's modules, with one warning. Imports no torch.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

IMPORT_NAME = "gqabench"
FOLDERS = ("attention_impls", "conf", "harness", "reports", "results")
"""What was imported under a name of its own before version 0.2."""

MOVED = {
    "blockwise": "plain.blockwise",
    "caches": "parts.caches",
    "cpu_decode": "kernels.cpu_decode",
    "cudnn_paged": "peers.cudnn_paged",
    "flash_attn_2": "peers.flash_attn_2",
    "flash_attn_3": "peers.flash_attn_3",
    "flash_attn_4": "peers.flash_attn_4",
    "flashinfer_decode": "peers.flashinfer_decode",
    "flashinfer_prefill": "peers.flashinfer_prefill",
    "flashinfer_xqa": "peers.flashinfer_xqa",
    "flex": "pytorch.flex",
    "folded_sdpa": "pytorch.folded_sdpa",
    "formulas": "parts.formulas",
    "grouped_matmul": "plain.grouped_matmul",
    "grouped_matmul_compiled": "pytorch.grouped_matmul_compiled",
    "hf": "huggingface",
    "jax_pallas": "peers.jax_pallas",
    "layer": "models.layer",
    "libraries": "parts.calls",
    "llama": "models.llama",
    "onnxruntime_gqa": "peers.onnxruntime_gqa",
    "outside": "plugins",
    "paged_gather": "cache_layouts.paged_gather",
    "paged_grouped": "cache_layouts.paged_grouped",
    "reference": "correctness.reference",
    "repeat_kv": "plain.repeat_kv",
    "repeat_kv_compiled": "pytorch.repeat_kv_compiled",
    "repeat_kv_sdpa": "pytorch.repeat_kv_sdpa",
    "sdpa": "pytorch.sdpa",
    "sdpa_cudnn": "pytorch.sdpa_cudnn",
    "sdpa_efficient": "pytorch.sdpa_efficient",
    "sdpa_flash": "pytorch.sdpa_flash",
    "sdpa_math": "pytorch.sdpa_math",
    "sliding_window": "cache_layouts.sliding_window",
    "torch_varlen": "pytorch.torch_varlen",
    "transformers_eager": "peers.transformers_eager",
    "transformers_flex": "peers.transformers_flex",
    "transformers_sdpa": "peers.transformers_sdpa",
    "triton_decode": "kernels.triton_decode",
    "triton_kernels": "kernels.triton",
    "triton_prefill": "kernels.triton_prefill",
    "truth": "correctness",
    "xformers_splitk": "peers.xformers_splitk",
}
"""Modules of `attention_impls` that moved, and where they are now. The others kept their place."""

_SOURCE_ROOT = Path(__file__).resolve().parents[2]


class OldNames:
    """A finder that resolves the old names to today's modules.

    Another project's regular package of such a name takes precedence. This project's own folders on the
    search path do not, since their modules would be loaded twice.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        folder, _, inner = name.partition(".")
        if folder not in FOLDERS:
            return None
        new_name = _new_name(folder, inner)
        if inner:
            is_alias = getattr(sys.modules.get(folder), "__name__", None) == f"{IMPORT_NAME}.{folder}"
            return ModuleSpec(name, _Alias(new_name)) if is_alias else None
        found = PathFinder.find_spec(name)
        if found is not None and found.origin is not None and not _is_ours(found.origin):
            return None
        notice = f"the import name {folder} is now {IMPORT_NAME}.{folder}; the old one will be removed"
        _notices.append(notice)
        warnings.warn(notice, FutureWarning, stacklevel=2)
        return ModuleSpec(name, _Alias(new_name))


class _Alias(Loader):
    """A loader that returns an existing module under another name."""

    def __init__(self, new_name: str) -> None:
        self._new_name = new_name
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._new_name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # which importing under another name has overwritten


_notices: list[str] = []


def take_notices() -> list[str]:
    """Return the warnings about old names since the last call; a worker passes them to its parent."""
    taken = _notices[:]
    _notices.clear()
    return taken


def accept_old_names() -> None:
    """Let code that is imported from now on use the old names. Idempotent."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, OldNames())


def _new_name(folder: str, inner: str) -> str:
    if folder == "attention_impls":
        head, _, rest = inner.partition(".")
        inner = ".".join(filter(None, [MOVED.get(head, head), rest]))
    return ".".join(filter(None, [IMPORT_NAME, folder, inner]))


def _is_ours(origin: str) -> bool:
    return Path(origin).resolve().is_relative_to(_SOURCE_ROOT)
