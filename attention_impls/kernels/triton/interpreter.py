"""What Triton's interpreter needs to run these kernels, besides `TRITON_INTERPRET=1`."""

from __future__ import annotations

from functools import cache
from typing import Any

import triton

from gqabench.attention_impls.kernels.triton.device import is_interpreted

KNOWS_NUMPY_2_5 = (3, 7)


@cache
def patch_interpreter() -> None:
    """Let computed scalars bound a loop, whichever NumPy is installed. Compiled kernels need nothing.

    Triton before 3.7 converts a scalar to an index by `int(array)`, and stores it as an array of one element.
    NumPy 2.5 does not convert such an array if it has a dimension.
    """
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if not is_interpreted() or version >= KNOWS_NUMPY_2_5:
        return
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_with_index(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda scalar: int(scalar.handle.data.item()))

    interpreter._patch_lang_tensor = patch_with_index
