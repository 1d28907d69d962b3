"""The page of the registry."""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from types import ModuleType

from markdown import code, codes, page, table

from gqabench.attention_impls import AttentionImpl, get_impl
from gqabench.attention_impls.registry import BUILT_IN_IMPLS
from gqabench.conf.presets import list_presets, read_preset

_DEVICES = {"cpu": "CPU", "cuda": "CUDA"}

_INTRODUCTION = """\
`gqabench list impls` says what this machine can run, and why not the rest. The sections are the folders of
[`attention_impls/`](../attention_impls).

- **expands K and V**: whether a call copies them to the number of query heads. `no`; `tiles`, some tokens at
  a time; `whole`; or `not known`, where a library chooses.
- **extra**: what to install, as in `pip install -e '.[transformers]'`."""

_OTHER_NAMES = """\
| where a name is accepted | runs |
| --- | --- |
| `path/to/file.py:ClassName` | [a class of your own](add-an-implementation.md) |
| the name of a plug-in | [a class of an installed package](add-an-implementation.md#as-a-package) |
| `ENVIRONMENT:NAME` | the implementation in [another environment](commands.md#sweep) |
| `PREFILL+DECODE` | in `workload=generate`: one implementation for prefill, one for decode |"""


def implementations_page() -> str:
    """Return a table for each room of `attention_impls/`, and the sets."""
    rooms: dict[str, list[AttentionImpl]] = {}
    for name, target in BUILT_IN_IMPLS.items():
        rooms.setdefault(target.partition(".")[0], []).append(get_impl(name))
    with_backward = [impl.name for impls in rooms.values() for impl in impls if impl.has_backward]
    parts = [_INTRODUCTION, f"These have a backward pass, for `workload=train`: {codes(with_backward)}."]
    for room, impls in rooms.items():
        about = _first_paragraph(import_module(f"gqabench.attention_impls.{room}"))
        parts += [f"## {room}", about, table(_HEADINGS, map(_impl_row, impls))]
    sets = [read_preset("impl_set", name) for name in list_presets("impl_set")]
    parts += [
        "## Sets",
        "`impl_set=NAME` measures a list of them.",
        table(
            ("set", "about", "impls"),
            [(code(one.name), one.about, codes(one.values["impls"])) for one in sets],
        ),
        "## Other names",
        _OTHER_NAMES,
    ]
    about_page = "What each built-in implementation is, where it runs, and what it needs."
    return page("Implementations", about_page, *parts)


_HEADINGS = ("name", "what it is", "runs on", "expands K and V", "extra")


def _impl_row(impl: AttentionImpl) -> tuple[str, ...]:
    """Return a line of the table. What an implementation is stands at the head of its module."""
    module = sys.modules[type(impl).__module__]
    path = "/".join(module.__name__.split(".")[1:])
    return (
        f"[`{impl.name}`](../{path}.py)",
        _first_paragraph(module),
        ", ".join(_DEVICES[device] for device in impl.devices),
        impl.timed_call.kv_expansion if impl.timed_call else "not known",
        " or ".join(map(code, impl.extras)),
    )


def _first_paragraph(module: ModuleType) -> str:
    """Return the first paragraph of a module's docstring. Raises `ValueError` where there is none."""
    text = inspect.getdoc(module)
    if not text:
        raise ValueError(
            f"{module.__name__}: needs a docstring, whose first lines docs/implementations.md shows"
        )
    return " ".join(text.split("\n\n")[0].split())
