"""GQABench: what grouped-query attention costs on this machine, in memory, time and energy.

    import gqabench

    frame = gqabench.load("results/runs/latest")

Everything of the project is imported below this name. In a checkout its folders stand beside this one, in an
installation below it (ADR 18). Names are loaded on first use, so that `import gqabench` costs nothing.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as type checkers know it; the module typing takes 5 ms to import
if TYPE_CHECKING:
    from gqabench.attention_impls import AttentionInputs, AttentionProblem, get_impl, list_impls
    from gqabench.results import load

__all__ = ["AttentionInputs", "AttentionProblem", "get_impl", "list_impls", "load"]

_HOME = {
    "AttentionInputs": "gqabench.attention_impls",
    "AttentionProblem": "gqabench.attention_impls",
    "get_impl": "gqabench.attention_impls",
    "list_impls": "gqabench.attention_impls",
    "load": "gqabench.results",
}
"""Where each public name is defined."""

_HERE = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120  # pathlib takes 5 ms to import
if not os.path.isdir(os.path.join(_HERE, "harness")):  # noqa: PTH112 PTH118
    __path__ = [_HERE, os.path.dirname(_HERE)]  # a checkout  # noqa: PTH120


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
