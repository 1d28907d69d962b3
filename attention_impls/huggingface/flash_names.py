"""Makes names such as `gqabench:sdpa_flash` usable in Transformers.

Transformers takes every `attn_implementation` with `flash` in it for one of its own and looks for it on its
hub (`is_flash_attention_requested` in `transformers/utils/generic.py`, as of 5.24). This can go when it asks
`AttentionInterface` first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

_QUESTION = "is_flash_attention_requested"


def claim_names(prefix: str) -> None:
    """Make that function return False for names that begin with `prefix`, wherever it is used. Idempotent."""
    from transformers.utils import generic

    asked = getattr(generic, _QUESTION)
    if prefix in getattr(asked, "claimed_prefixes", ()):
        return
    answer = _answering_no(asked, prefix)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "transformers" and vars(module).get(_QUESTION) is asked:
            setattr(module, _QUESTION, answer)


def _answering_no(asked: Callable[..., bool], prefix: str) -> Callable[..., bool]:
    @wraps(asked)
    def answer(
        config: Any = None, requested_attention_implementation: str | None = None, *args: Any, **kwargs: Any
    ) -> bool:
        requested = requested_attention_implementation
        name = requested if config is None else config._attn_implementation
        if isinstance(name, str) and name.startswith(prefix):
            return False
        return asked(config, requested, *args, **kwargs)

    vars(answer)["claimed_prefixes"] = (*getattr(asked, "claimed_prefixes", ()), prefix)
    return answer
