"""The table of implementations: a name to where its class stands, resolved on use. Imports no torch."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from attention_impls.contract import AttentionImpl

ENTRY_POINT_GROUP = "gqabench.attention_impls"

BUILT_IN_IMPLS = {
    "reference": "attention_impls.reference:Reference",
    "repeat_kv": "attention_impls.repeat_kv:RepeatKv",
    "repeat_kv_sdpa": "attention_impls.repeat_kv_sdpa:RepeatKvSdpa",
    "grouped_matmul": "attention_impls.grouped_matmul:GroupedMatmul",
    "blockwise": "attention_impls.blockwise:Blockwise",
    "paged_gather": "attention_impls.paged_gather:PagedGather",
    "paged_grouped": "attention_impls.paged_grouped:PagedGrouped",
    "sliding_window": "attention_impls.sliding_window:SlidingWindow",
    "folded_sdpa": "attention_impls.folded_sdpa:FoldedSdpa",
    "sdpa": "attention_impls.sdpa:Sdpa",
    "sdpa_flash": "attention_impls.sdpa_flash:SdpaFlash",
    "sdpa_cudnn": "attention_impls.sdpa_cudnn:SdpaCudnn",
    "sdpa_efficient": "attention_impls.sdpa_efficient:SdpaEfficient",
    "sdpa_math": "attention_impls.sdpa_math:SdpaMath",
    "flex": "attention_impls.flex:Flex",
    "repeat_kv_compiled": "attention_impls.repeat_kv_compiled:RepeatKvCompiled",
    "grouped_matmul_compiled": "attention_impls.grouped_matmul_compiled:GroupedMatmulCompiled",
    "onnxruntime_gqa": "attention_impls.onnxruntime_gqa:OnnxruntimeGqa",
    "transformers_eager": "attention_impls.transformers_eager:TransformersEager",
    "transformers_sdpa": "attention_impls.transformers_sdpa:TransformersSdpa",
    "transformers_flex": "attention_impls.transformers_flex:TransformersFlex",
}

_REQUIRED_MEMBERS = ("name", "unsupported_reasons", "prepare")


class UnknownImpl(ValueError):
    """A name that stands for no implementation. The message names the valid ones."""


class BrokenImpl(Exception):
    """An implementation from outside that could not be imported or constructed. The message says why."""


def list_impls() -> list[str]:
    """Names of all implementations: the built-in ones in the table's order, then installed plug-ins."""
    return [*BUILT_IN_IMPLS, *sorted(_plugin_targets())]


def require_known(name: str) -> None:
    """Raise `UnknownImpl` unless `name` is listed or is the path of a file that exists with a class name.

    Imports nothing, so that a plan can be checked before any implementation is loaded.
    """
    if _is_path_target(name):
        path = Path(name.rpartition(":")[0])
        if not path.is_file():
            raise UnknownImpl(f"impls={name}: no file {path}")
        return
    if name not in BUILT_IN_IMPLS and name not in _plugin_targets():
        raise UnknownImpl(
            f"impls={name}: unknown; valid: {', '.join(list_impls())}, or path/to/file.py:ClassName"
        )


def get_impl(name: str) -> AttentionImpl:
    """An instance of the implementation `name`: a listed name, or `path/to/file.py:ClassName`.

    Raises `UnknownImpl` for a name that stands for nothing and `BrokenImpl` for code from outside that
    fails on import, has no such class, or whose class lacks members of `AttentionImpl`.
    """
    require_known(name)
    if name in BUILT_IN_IMPLS:
        module_name, _, class_name = BUILT_IN_IMPLS[name].partition(":")
        return cast(AttentionImpl, getattr(importlib.import_module(module_name), class_name)())
    try:
        if _is_path_target(name):
            file, _, class_name = name.rpartition(":")
            impl_class: Any = getattr(_load_file(Path(file).resolve()), class_name)
        else:
            impl_class = _plugin_targets()[name].load()
        impl = impl_class()
    except Exception as error:  # code from outside: whatever it raises is the reason of its row
        raise BrokenImpl(f"impls={name}: {type(error).__name__}: {error}") from error
    if missing := [member for member in _REQUIRED_MEMBERS if not hasattr(impl, member)]:
        raise BrokenImpl(f"impls={name}: has no {', '.join(missing)}; valid: a class like AttentionImpl")
    return cast(AttentionImpl, impl)


def _is_path_target(name: str) -> bool:
    file, _, class_name = name.rpartition(":")
    return file.endswith(".py") and class_name.isidentifier()


def _plugin_targets() -> dict[str, Any]:
    """Installed plug-ins by name. A built-in name is a promise of what runs, so none can take it."""
    points = entry_points(group=ENTRY_POINT_GROUP)
    return {point.name: point for point in points if point.name not in BUILT_IN_IMPLS}


def _load_file(path: Path) -> ModuleType:
    module_name = f"gqabench_file_{path.stem}_{abs(hash(path))}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
