"""The look of an implementation: a colour, a marker and a dash pattern, the same in every figure and run.

Hues come from Okabe and Ito's palette and Tol's muted one, both made for colour-blind readers. Beyond a
dozen names hues alone cannot be told apart: every neighbour also differs in marker and dashes, so that
figures read in greyscale.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

SOLID: tuple[float, ...] = ()
DASHED = (5.0, 2.0)
DOTTED = (1.2, 1.6)
DASH_DOT = (5.0, 1.8, 1.2, 1.8)
DASH_DOT_DOT = (5.0, 1.6, 1.2, 1.6, 1.2, 1.6)
_DASHES = (SOLID, DASHED, DASH_DOT, DOTTED, DASH_DOT_DOT)
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "h", "d", "8", "*", "H")


@dataclass(frozen=True)
class Style:
    """How one implementation is drawn."""

    color: str
    marker: str
    dashes: tuple[float, ...]

    @property
    def linestyle(self) -> Any:
        """The dash pattern as matplotlib's `linestyle`."""
        return (0, self.dashes) if self.dashes else "-"


IMPL_STYLES = {
    "reference": Style("#7A7A7A", "X", DOTTED),
    "repeat_kv": Style("#D55E00", "s", SOLID),
    "repeat_kv_sdpa": Style("#E69F00", "D", DASHED),
    "grouped_matmul": Style("#0072B2", "o", SOLID),
    "folded_sdpa": Style("#56B4E9", "^", DASHED),
    "sdpa": Style("#009E73", "v", SOLID),
    "sdpa_flash": Style("#AA4499", "p", SOLID),
    "sdpa_cudnn": Style("#117733", "<", DASH_DOT),
    "sdpa_efficient": Style("#999933", ">", DASHED),
    "sdpa_math": Style("#8C564B", "d", DASH_DOT),
    "flex": Style("#332288", "H", DASH_DOT_DOT),
    "triton_decode": Style("#CC3311", "*", DASHED),
    "triton_prefill": Style("#882255", "*", DASH_DOT),
    "cpu_decode": Style("#44AA99", "h", SOLID),
    "flashinfer_decode": Style("#EE3377", "P", SOLID),
    "flashinfer_prefill": Style("#CC6677", "P", DASHED),
    "flash_attn_2": Style("#661100", "8", SOLID),
    "flash_attn_3": Style("#B15928", "8", DASHED),
    "flash_attn_4": Style("#DDAA33", "8", DASH_DOT),
    "xformers_splitk": Style("#6699CC", "X", DASHED),
    "cudnn_paged": Style("#225522", "<", DOTTED),
    "torch_varlen": Style("#4477AA", "h", DASH_DOT),
    "jax_pallas": Style("#BBAA00", "p", SOLID),
    "onnxruntime_gqa": Style("#222255", "d", SOLID),
    "transformers_eager": Style("#A04000", "X", SOLID),
    "transformers_sdpa": Style("#2E8B74", "X", DASH_DOT_DOT),
    "transformers_flash": Style("#7B3F9E", "X", DASH_DOT),
}
"""Adding a name is one line. A name keeps its style for good: old figures stay comparable."""

_OTHER_COLORS = (
    "#1F77B4", "#B5651D", "#2C7C2C", "#B22222", "#6A51A3", "#8B6914", "#C2528B", "#4F6D7A",
    "#00798C", "#A23E48", "#5C8001", "#3D348B", "#7D4E57", "#D1495B", "#30638E", "#66717E",
)  # fmt: skip
"""For names that the table does not know: which one follows from the name alone."""

KV_HEADS_COLORS = ("#14213D", "#334870", "#4F6B94", "#6783A8", "#7F95AE", "#95A3B2")
"""From the most KV heads to the fewest: slate tones, which no implementation has."""

NEUTRAL = "#5B6470"
"""Lines that stand for a formula or a reference, not for an implementation."""


def impl_style(impl: str, variant: int = 0) -> Style:
    """The style of an implementation; a `variant` (another environment or run) keeps its colour only."""
    style = IMPL_STYLES.get(impl) or _hashed_style(impl)
    if variant == 0:
        return style
    dashes = _DASHES[(_DASHES.index(style.dashes) + variant) % len(_DASHES)]
    marker = _MARKERS[(_MARKERS.index(style.marker) + variant) % len(_MARKERS)]
    return Style(style.color, marker, dashes)


def _hashed_style(impl: str) -> Style:
    digest = hashlib.sha256(impl.encode()).digest()
    return Style(
        _OTHER_COLORS[digest[0] % len(_OTHER_COLORS)],
        _MARKERS[digest[1] % len(_MARKERS)],
        _DASHES[digest[2] % len(_DASHES)],
    )
