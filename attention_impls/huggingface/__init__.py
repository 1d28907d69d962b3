"""Implementations inside Hugging Face models: `attn_implementation="gqabench:NAME"`.

    from gqabench.attention_impls import huggingface

    huggingface.register()
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="gqabench:grouped_matmul")

`gqabench:PREFILL+DECODE` uses one implementation for several new tokens and another for one, since some
support only one of the two. What an implementation cannot compute raises `Unsupported`; nothing replaces it.

Shape suffixes: B batch, H query heads, G key/value heads, Q new tokens, K keys of the cache, D head_dim.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, cast

import torch

from gqabench.attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention
from gqabench.attention_impls.huggingface.flash_names import claim_names
from gqabench.attention_impls.huggingface.mask import (
    InexpressibleMask,
    Unsupported,
    VisiblePart,
    visible_part,
)
from gqabench.attention_impls.plugins.promises import as_prepared, reads_cache_in_place, stated_reasons
from gqabench.attention_impls.prefill_decode_pair import PrefillDecodePair, parts_of
from gqabench.attention_impls.problem import AttentionProblem
from gqabench.attention_impls.registry import UnknownImpl, get_impl, list_impls, require_known

__all__ = ["PREFIX", "InexpressibleMask", "Unsupported", "register", "register_impl"]

PREFIX = "gqabench:"
MAX_KEPT = 64
"""Compiled implementations that are kept for problems that recur."""
_MAX_MASKS = 4
_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}

AttentionFunction = Callable[..., tuple[torch.Tensor, None]]
_instance_numbers = count(1)


def register(*names: str) -> list[str]:
    """Make implementations selectable in models, and return the names to select them by.

    `names`: listed names, `path/to/file.py:ClassName`, or two of them joined by `+`; none means all listed.
    Nothing is imported until a model calls it. Raises `UnknownImpl` for an unknown name.
    """
    registered = []
    for name in names or list_impls():
        parts = parts_of(name)
        for part in parts:
            if len(parts_of(part)) > 1:
                raise UnknownImpl(
                    f"{name}: at most two implementations, one for several new tokens and one for one"
                )
            require_known(part)
        registered.append(_make_selectable(name, _attention_function(parts[0], parts[-1], get_impl)))
    return registered


def register_impl(impl: AttentionImpl | PrefillDecodePair) -> str:
    """Make one instance, or a `PrefillDecodePair`, selectable; return the unique name to select it by."""
    parts = (impl.prefill, impl.decode) if isinstance(impl, PrefillDecodePair) else (impl, impl)
    by_name = {part.name: part for part in parts}
    function = _attention_function(parts[0].name, parts[1].name, by_name.__getitem__)
    return _make_selectable(f"{impl.name}#{next(_instance_numbers)}", function)


def _make_selectable(name: str, function: AttentionFunction) -> str:
    from transformers import AttentionInterface, AttentionMaskInterface

    claim_names(PREFIX)
    AttentionInterface.register(PREFIX + name, function)
    AttentionMaskInterface.register(PREFIX + name, _whole_mask)
    return PREFIX + name


def _whole_mask(*args: Any, **kwargs: Any) -> torch.Tensor:
    """Return the boolean mask `[B, 1, Q, K]` always: only it shows where padding and unused room are."""
    from transformers.masking_utils import sdpa_mask

    skipping = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    mask_B1QK = sdpa_mask(*args, **kwargs | skipping)
    assert isinstance(mask_B1QK, torch.Tensor)
    return mask_B1QK


def _attention_function(
    prefill_name: str, decode_name: str, load: Callable[[str], AttentionImpl]
) -> AttentionFunction:
    calls: dict[str, _ModelCall] = {}

    def attend(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        softcap: float | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        name = decode_name if query.shape[2] == 1 else prefill_name
        if name not in calls:
            calls[name] = _ModelCall(name, load(name))
        _require_plain(name, query, value, attention_mask, dropout, kwargs)
        assert attention_mask is not None
        return calls[name](query, key, value, attention_mask, scaling, softcap), None

    return cast(AttentionFunction, torch.compiler.disable(attend))


def _require_plain(
    name: str,
    query: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    others: dict[str, Any],
) -> None:
    """Raise `Unsupported` for what a problem does not express."""
    refused = {key: others.get(key) for key in ("s_aux", "position_bias", "head_mask")}
    if given := [key for key, given_value in refused.items() if given_value is not None]:
        raise Unsupported(
            f"{PREFIX}{name}: {', '.join(given)} is given, and an attention problem cannot express it"
        )
    if dropout:
        raise Unsupported(f"{PREFIX}{name}: dropout={dropout}: must be 0; call model.eval()")
    if mask is None:
        raise Unsupported(f"{PREFIX}{name}: the model passes no attention_mask, so padding is unknown")
    if value.shape[-1] != query.shape[-1]:
        raise Unsupported(
            f"{PREFIX}{name}: values are {value.shape[-1]} wide and queries {query.shape[-1]}: must be equal"
        )
    if query.dtype not in _DTYPES:
        raise Unsupported(f"{PREFIX}{name}: dtype={query.dtype}: must be {', '.join(_DTYPES.values())}")


@dataclass
class _ModelCall:
    """One implementation, as the layers of a model call it."""

    name: str
    impl: AttentionImpl
    _masks: OrderedDict[tuple[int, int], tuple[torch.Tensor, VisiblePart]] = field(
        default_factory=OrderedDict
    )
    _kept: OrderedDict[Any, tuple[AttentionInputs, PreparedAttention]] = field(default_factory=OrderedDict)

    def __call__(
        self,
        q_BHQD: torch.Tensor,
        k_BGKD: torch.Tensor,
        v_BGKD: torch.Tensor,
        mask_B1QK: torch.Tensor,
        scale: float | None,
        soft_cap: float | None,
    ) -> torch.Tensor:
        part = self._part_of(mask_B1QK)
        inputs = AttentionInputs(part.select_rows(q_BHQD), part.select_keys(k_BGKD), part.select_keys(v_BGKD))
        problem = AttentionProblem(
            batch_size=q_BHQD.shape[0],
            num_q_heads=q_BHQD.shape[1],
            num_kv_heads=k_BGKD.shape[1],
            head_dim=q_BHQD.shape[3],
            dtype=_DTYPES[q_BHQD.dtype],
            device=str(q_BHQD.device),
            softmax_scale=scale,
            logits_soft_cap=soft_cap,
            **part.mask_fields,
        )
        return part.restore_rows(self._attend(problem, inputs), q_BHQD.shape[2])

    def _part_of(self, mask_B1QK: torch.Tensor) -> VisiblePart:
        """Return what counts of a mask. All layers of a step pass the same mask, so it is analysed once.

        Masks are kept, so that an id is not used again; one that was modified is analysed again. Raises
        `InexpressibleMask`.
        """
        key = (id(mask_B1QK), 0 if mask_B1QK.is_inference() else mask_B1QK._version)
        known = self._masks.get(key)
        if known is None:
            known = self._masks[key] = (mask_B1QK, visible_part(mask_B1QK))
            if len(self._masks) > _MAX_MASKS:
                self._masks.popitem(last=False)
        return known[1]

    def _attend(self, problem: AttentionProblem, inputs: AttentionInputs) -> torch.Tensor:
        """Prepare and call the implementation.

        It is prepared for each call, since the cache grows, unless that would compile again.
        """
        key = (problem, torch.is_inference_mode_enabled(), torch.is_grad_enabled())
        if key in self._kept:
            own, prepared = self._kept[key]
            for mine, given in zip((own.q, own.k, own.v), (inputs.q, inputs.k, inputs.v), strict=True):
                mine.copy_(given)
            return prepared().clone()  # the next layer overwrites what this call reads, and maybe its output
        self._require_supported(problem, inputs)
        if getattr(self.impl, "compiles_each_problem", False) and reads_cache_in_place(self.impl):
            inputs = AttentionInputs(*(x.detach().clone() for x in (inputs.q, inputs.k, inputs.v)))
            self._kept[key] = inputs, as_prepared(self.impl.prepare(problem, inputs))
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
            return self._kept[key][1]().clone()
        return as_prepared(self.impl.prepare(problem, inputs))()

    def _require_supported(self, problem: AttentionProblem, inputs: AttentionInputs) -> None:
        if reasons := stated_reasons(self.impl, problem):
            raise Unsupported(f"{PREFIX}{self.name}: {'; '.join(reasons)}")
        needs_gradients = torch.is_grad_enabled() and any(
            x.requires_grad for x in (inputs.q, inputs.k, inputs.v)
        )
        if needs_gradients and not getattr(self.impl, "has_backward", False):
            raise Unsupported(f"{PREFIX}{self.name}: declares no backward pass; call it in torch.no_grad()")
