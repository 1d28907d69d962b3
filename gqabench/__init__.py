"""GQABench: what grouped-query attention costs on this machine, in memory, time and energy.

    import gqabench

    frame = gqabench.measure(model="llama3_8b", impls=["sdpa", "repeat_kv"], kv_len=[4096, 32768])
    gqabench.figure("latency", frame)
    gqabench.plan(model="llama3_8b", memory="80GB")
    gqabench.load("results/runs/latest")

`docs/python.md` is the guide. Everything of the project is imported below this name. In a checkout its
folders stand beside this one, in an installation below it (ADR 18). Names are loaded on first use, so that
`import gqabench` costs nothing.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as type checkers know it; the module typing takes 5 ms to import
if TYPE_CHECKING:
    from gqabench.attention_impls import AttentionInputs, AttentionProblem, get_impl, list_impls
    from gqabench.harness.errors import UsageError
    from gqabench.harness.interface.measure import measure
    from gqabench.harness.interface.plan import plan
    from gqabench.reports.figures.by_name import figure
    from gqabench.reports.report import report
    from gqabench.results import load

    __version__: str

__all__ = [
    "AttentionInputs",
    "AttentionProblem",
    "UsageError",
    "__version__",
    "figure",
    "get_impl",
    "list_impls",
    "load",
    "measure",
    "plan",
    "report",
]

_HOME = {
    "AttentionInputs": "gqabench.attention_impls",
    "AttentionProblem": "gqabench.attention_impls",
    "UsageError": "gqabench.harness.errors",
    "figure": "gqabench.reports.figures.by_name",
    "get_impl": "gqabench.attention_impls",
    "list_impls": "gqabench.attention_impls",
    "load": "gqabench.results",
    "measure": "gqabench.harness.interface.measure",
    "plan": "gqabench.harness.interface.plan",
    "report": "gqabench.reports.report",
}
"""Where each public name is defined; `__version__` is read from the installation."""

_HERE = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120  # pathlib takes 5 ms to import
if not os.path.isdir(os.path.join(_HERE, "harness")):  # noqa: PTH112 PTH118
    __path__ = [os.path.dirname(_HERE)]  # a checkout  # noqa: PTH120


def __getattr__(name: str) -> object:
    if name == "__version__":
        from gqabench.harness.machine.source import gqabench_version

        value: object = gqabench_version()
    elif name in _HOME:
        from importlib import import_module

        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
