"""The look of an implementation: a colour, a marker and a dash pattern, the same in every figure and run.

Families share a range of hues; markers and dashes tell implementations apart where colours do not, as in
greyscale. The colours were chosen by a search under the rules that `tests/reports/test_palette.py` checks:
distances in OKLab, also as colour-blind readers see them, and contrast on a white and on a dark page.
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
        """Return the dash pattern as matplotlib's `linestyle`."""
        return (0, self.dashes) if self.dashes else "-"


IMPL_STYLES = {
    "reference": Style("#7A7A7A", "X", DOTTED),
    # K and V expanded: reds
    "repeat_kv": Style("#D55E00", "s", SOLID),
    "repeat_kv_sdpa": Style("#985048", "D", DASHED),
    "repeat_kv_compiled": Style("#C81838", "s", DASHED),
    # grouped formulas: blues
    "grouped_matmul": Style("#0072B2", "o", SOLID),
    "grouped_matmul_compiled": Style("#8070FF", "o", DASHED),
    "folded_sdpa": Style("#0898FF", "^", DASHED),
    "blockwise": Style("#6050E0", "*", SOLID),
    # cache layouts: purples
    "paged_gather": Style("#D078A8", "<", SOLID),
    "paged_grouped": Style("#A080F8", ">", SOLID),
    "sliding_window": Style("#B02890", "P", DOTTED),
    # PyTorch's fused attention: greens
    "sdpa": Style("#009E73", "v", SOLID),
    "sdpa_flash": Style("#38A0B0", "p", SOLID),
    "sdpa_cudnn": Style("#007870", "<", DASH_DOT),
    "sdpa_efficient": Style("#686800", ">", DASHED),
    "sdpa_math": Style("#209000", "d", DASH_DOT),
    "flex": Style("#387048", "D", DASH_DOT_DOT),
    "torch_varlen": Style("#58A088", "h", DASH_DOT),
    # FlashAttention: browns
    "flash_attn_2": Style("#C88088", "8", SOLID),
    "flash_attn_3": Style("#E07848", "8", DASHED),
    "flash_attn_4": Style("#B04008", "8", DASH_DOT),
    # FlashInfer: pinks
    "flashinfer_decode": Style("#B030B0", "P", SOLID),
    "flashinfer_prefill": Style("#E068C0", "P", DASHED),
    "flashinfer_xqa": Style("#A84070", "P", DASH_DOT),
    # other libraries
    "xformers_splitk": Style("#5868F8", "X", DASHED),
    "cudnn_paged": Style("#50A810", "<", DOTTED),
    "jax_pallas": Style("#806028", "p", DASHED),
    "onnxruntime_gqa": Style("#C868E0", "d", SOLID),
    # Transformers: violets
    "transformers_eager": Style("#8040D0", "X", SOLID),
    "transformers_sdpa": Style("#8858E8", "X", DASH_DOT_DOT),
    "transformers_flex": Style("#7058A0", "X", DASH_DOT),
    # our own kernels: golds
    "cpu_decode": Style("#C08800", "s", DASH_DOT),
    "triton_decode": Style("#A07800", "*", DASHED),
    "triton_prefill": Style("#989850", "*", DASH_DOT),
}
"""One line an implementation. A name keeps its style for good: old figures stay comparable."""

_OTHER_COLORS = (
    "#F04070", "#9080B8", "#688840", "#B07058", "#0060D8", "#0088A0",
    "#D040B0", "#FF5808", "#007800", "#905888", "#5080E8", "#D83000",
)  # fmt: skip
"""For names that the table does not know: the name alone decides which one."""

KV_HEADS_COLORS = ("#14213D", "#334870", "#4F6B94", "#6783A8", "#7F95AE", "#95A3B2")
"""From the most KV heads to the fewest: slate tones, which no implementation has."""

BAR_COLOR = "#3B4A68"
"""Bars of cache bytes: the second of these tones, a little greyer, since bars are large."""

NEUTRAL = "#5B6470"
"""Lines that stand for a formula or a reference, not for an implementation."""


def impl_style(impl: str, variant: int = 0) -> Style:
    """Return the style of an implementation; a `variant` (another environment, run) keeps its colour only."""
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
