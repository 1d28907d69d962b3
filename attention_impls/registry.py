"""The table of implementations: a name and its class, which is imported on use. Imports no torch."""

from __future__ import annotations

import importlib
from typing import Any, cast

from gqabench.attention_impls.contract import AttentionImpl
from gqabench.attention_impls.plugins.entry_points import load_plugin, plugin_names
from gqabench.attention_impls.plugins.files import is_in_a_file, load_file, split_name
from gqabench.attention_impls.plugins.old_names import accept_old_names
from gqabench.attention_impls.prefill_decode_pair import PrefillDecodePair, parts_of

BUILT_IN_IMPLS = {
    "reference": "correctness.reference:Reference",
    "repeat_kv": "plain.repeat_kv:RepeatKv",
    "repeat_kv_sdpa": "pytorch.repeat_kv_sdpa:RepeatKvSdpa",
    "grouped_matmul": "plain.grouped_matmul:GroupedMatmul",
    "blockwise": "plain.blockwise:Blockwise",
    "paged_gather": "cache_layouts.paged_gather:PagedGather",
    "paged_grouped": "cache_layouts.paged_grouped:PagedGrouped",
    "sliding_window": "cache_layouts.sliding_window:SlidingWindow",
    "folded_sdpa": "pytorch.folded_sdpa:FoldedSdpa",
    "sdpa": "pytorch.sdpa:Sdpa",
    "sdpa_flash": "pytorch.sdpa_flash:SdpaFlash",
    "sdpa_cudnn": "pytorch.sdpa_cudnn:SdpaCudnn",
    "sdpa_efficient": "pytorch.sdpa_efficient:SdpaEfficient",
    "sdpa_math": "pytorch.sdpa_math:SdpaMath",
    "flex": "pytorch.flex:Flex",
    "repeat_kv_compiled": "pytorch.repeat_kv_compiled:RepeatKvCompiled",
    "grouped_matmul_compiled": "pytorch.grouped_matmul_compiled:GroupedMatmulCompiled",
    "torch_varlen": "pytorch.torch_varlen:TorchVarlen",
    "flash_attn_2": "peers.flash_attn_2:FlashAttn2",
    "flash_attn_3": "peers.flash_attn_3:FlashAttn3",
    "flash_attn_4": "peers.flash_attn_4:FlashAttn4",
    "flashinfer_decode": "peers.flashinfer_decode:FlashinferDecode",
    "flashinfer_prefill": "peers.flashinfer_prefill:FlashinferPrefill",
    "flashinfer_xqa": "peers.flashinfer_xqa:FlashinferXqa",
    "xformers_splitk": "peers.xformers_splitk:XformersSplitk",
    "cudnn_paged": "peers.cudnn_paged:CudnnPaged",
    "jax_pallas": "peers.jax_pallas:JaxPallas",
    "onnxruntime_gqa": "peers.onnxruntime_gqa:OnnxruntimeGqa",
    "transformers_eager": "peers.transformers_eager:TransformersEager",
    "transformers_sdpa": "peers.transformers_sdpa:TransformersSdpa",
    "transformers_flex": "peers.transformers_flex:TransformersFlex",
    "cpu_decode": "kernels.cpu_decode:CpuDecode",
    "triton_decode": "kernels.triton_decode:TritonDecode",
    "triton_prefill": "kernels.triton_prefill:TritonPrefill",
}

_REQUIRED_MEMBERS = ("name", "unsupported_reasons", "prepare")


class UnknownImpl(ValueError):
    """A name that no implementation has. The message lists the valid ones."""


class BrokenImpl(Exception):
    """An implementation from outside that could not be imported or constructed. The message says why."""


def list_impls() -> list[str]:
    """Return the names of all implementations.

    The built-in ones come first, in the order of the table, then installed plug-ins. A built-in name is a
    promise of what runs, so no plug-in can take it.
    """
    return [*BUILT_IN_IMPLS, *(name for name in plugin_names() if name not in BUILT_IN_IMPLS)]


def require_known(name: str) -> None:
    """Raise `UnknownImpl` unless `name` is listed, or is `path/to/file.py:ClassName` of an existing file.

    Imports nothing, so that a plan can be checked before any implementation is loaded.
    """
    if len(parts := _parts(name)) == 2:
        for part in parts:
            require_known(part)
        return
    if is_in_a_file(name):
        path, _ = split_name(name)
        if not path.is_file():
            raise UnknownImpl(f"impls={name}: no file {path}")
        return
    if name not in BUILT_IN_IMPLS and name not in plugin_names():
        raise UnknownImpl(
            f"impls={name}: unknown; valid: {', '.join(list_impls())}, or path/to/file.py:ClassName"
        )


def get_impl(name: str) -> AttentionImpl:
    """Return an instance of the implementation `name`: a listed name, or `path/to/file.py:ClassName`.

    Two of them joined by `+` make a `PrefillDecodePair`.

    Raises `UnknownImpl` for an unknown name, and `BrokenImpl` for code from outside that fails on import, has
    no such class, or whose class lacks members of `AttentionImpl`.
    """
    require_known(name)
    if len(parts := _parts(name)) == 2:
        return cast(AttentionImpl, PrefillDecodePair(get_impl(parts[0]), get_impl(parts[1])))
    if name in BUILT_IN_IMPLS:
        module_name, _, class_name = BUILT_IN_IMPLS[name].partition(":")
        return cast(
            AttentionImpl, getattr(importlib.import_module(f"{__package__}.{module_name}"), class_name)()
        )
    try:
        impl = _load_class(name)()
    except (
        Exception,
        SystemExit,
    ) as error:  # code from outside: whatever it raises becomes the reason of its row
        raise BrokenImpl(f"impls={name}: {type(error).__name__}: {error}") from error
    if missing := [member for member in _REQUIRED_MEMBERS if not hasattr(impl, member)]:
        raise BrokenImpl(
            f"impls={name}: has no {', '.join(missing)}; valid: a class with the members of AttentionImpl"
        )
    return cast(AttentionImpl, impl)


def _parts(name: str) -> list[str]:
    """Split a pair into its two names; a `+` in the path of an existing file separates nothing."""
    return [name] if is_in_a_file(name) and split_name(name)[0].is_file() else parts_of(name)


def _load_class(name: str) -> Any:
    accept_old_names()
    if is_in_a_file(name):
        file, class_name = split_name(name)
        return getattr(load_file(file), class_name)
    return load_plugin(name)
