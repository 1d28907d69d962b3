"""How far apart colours look, how they look to colour-blind readers, and their contrast on a page."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgb

Vector = npt.NDArray[np.float64]

VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
"""On linear RGB. Machado, Oliveira and Fernandes 2009, "A physiologically-based model for simulation of color
vision deficiency", IEEE TVCG 15(6), the matrices of severity 1.0."""

_RGB_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LMS_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def oklab(color: str, vision: str = "normal") -> Vector:
    """Return `[L, a, b]` of an sRGB colour. Ottosson 2020, "A perceptual color space ..."."""
    seen = np.clip(VISIONS[vision] @ _linear(color), 0, 1)
    return np.asarray(_LMS_TO_LAB @ np.cbrt(_RGB_TO_LMS @ seen))


def distance(one: str, other: str, vision: str = "normal") -> float:
    """Return the Euclidean distance in OKLab. White to black is 1; about 0.02 is just noticeable."""
    return float(np.linalg.norm(oklab(one, vision) - oklab(other, vision)))


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, 1 to 21 (WCAG 2.2, "contrast ratio")."""
    low, high = sorted(float(np.dot([0.2126, 0.7152, 0.0722], _linear(color))) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


def _linear(color: str) -> Vector:
    values = np.array(to_rgb(color))
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
