"""What the entry of a column, and of a problem axis, says. The entries stand in `gqabench.results.record`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

_ENTRY = "gqabench"


class Unit(StrEnum):
    """What a number counts. Its formatter is in `gqabench.reports.units.FORMATTERS`."""

    MS = "ms"
    S = "s"
    BYTES = "bytes"
    JOULES = "J"
    WATTS = "W"
    MHZ = "MHz"
    CELSIUS = "°C"
    CORES = "cores"
    TOKENS_PER_S = "tokens/s"
    GB_PER_S = "GB/s"
    TFLOP_PER_S = "TFLOP/s"
    FLOP = "FLOP"
    SHARE = "share"
    """Of one: 0.87 reads 87 %."""
    COUNT = "count"
    ABSOLUTE_ERROR = "absolute error"
    RATIO = "ratio"


class Section(StrEnum):
    """Parts of a record, in the order of its columns."""

    IDENTITY = "Identity"
    PROBLEM = "Problem"
    TIME = "Time"
    RATES = "Rates"
    MEMORY = "Memory"
    ENERGY = "Energy"
    CONDITIONS = "Conditions"
    CHECKS = "Checks"
    PROVENANCE = "Provenance"


class Shown(StrEnum):
    """The report's tables that have a column for a record's column."""

    RESULTS = "results"
    MEMORY = "memory"
    SETUP = "set-up"


class Role(StrEnum):
    """What an axis is to a problem: the order of names in headings and slices follows from it."""

    NAME = "name"
    """Names the shape that all else starts from."""
    SETTING = "setting"
    """How a shape is attended: number formats, masks, layouts. Most are null in most problems."""
    SHAPE = "shape"
    """Of the model."""
    SIZE = "size"
    """What a sweep scales."""


class Panels(IntEnum):
    """How soon an axis becomes a facet of a figure, where several vary."""

    FIRST = 0
    SECOND = 1
    LAST = 2
    NEVER = 3


@dataclass(frozen=True, kw_only=True)
class Compared:
    """How `compare` and `ab` judge a column."""

    is_exact: bool
    """The same each time, so that any difference is one; the others scatter."""
    is_machine_independent: bool = False
    """Means the same on another machine."""
    higher_is_better: bool = False
    is_instead_of_times: bool = False
    """Judged only where times are not, since it says the same on one machine."""
    is_by_thread: bool = False
    """Kernels for the CPU take a buffer for each thread: comparable with equally many threads alone."""


@dataclass(frozen=True, kw_only=True)
class AxisEntry:
    """What a problem axis says beside being a column."""

    text: str
    """A value as a reader says it, with `{number}` or `{tokens}` in its place: `window {tokens}`.

    Of a bool it is what is said of true."""
    null_text: str
    """What null, or false, means: `not paged`; empty for `no KEY`."""
    label: str
    """Axis label of a figure, with its unit; empty for the key."""
    plural: str
    """Several of its values, in a sentence: `contexts`; empty for `values of KEY`."""
    role: Role
    panels: Panels
    in_tokens: bool
    """Ticks and table cells read `4K`."""
    is_told_alone: bool
    """A few words that a caption names wherever it has several values."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """All that a record's field says of itself."""

    about: str
    section: Section
    unit: Unit | None = None
    heading: str = ""
    """Of a table's column, without the unit; empty for a column that no table shows."""
    shown: tuple[Shown, ...] = ()
    is_positive: bool = False
    """A measured value is never 0: a 0 would stand for "not measured", which is null."""
    compared: Compared | None = None
    axis: AxisEntry | None = None


def entry_of(item: Field[Any]) -> Entry:
    """Return the entry of a record's field. Raises `TypeError` for a field without one."""
    entry = item.metadata.get(_ENTRY)
    if not isinstance(entry, Entry):
        raise TypeError(f"{item.name}: no entry; write it as `{item.name}: TYPE = column(SECTION, ABOUT)`")
    return entry


def column(
    section: Section,
    about: str,
    *,
    default: Any = None,
    factory: Callable[[], Any] | None = None,
    **says: Any,
) -> Any:
    """Declare a column of a record, null unless measured. `says` are the other fields of `Entry`.

    `default=MISSING` makes it one that every record must give.
    """
    return _field(Entry(about=about, section=section, **says), default, factory)


def axis(
    about: str,
    *,
    text: str,
    null_text: str = "",
    label: str = "",
    plural: str = "",
    role: Role = Role.SETTING,
    panels: Panels = Panels.SECOND,
    in_tokens: bool = False,
    is_told_alone: bool = True,
    default: Any = None,
) -> Any:
    """Declare an axis of the problem: a key of the sweep, a column, a facet.

    The name of the field is the key. `default=MISSING` makes it a key that a configuration must give.
    """
    says = AxisEntry(
        text=text, null_text=null_text, label=label, plural=plural, role=role, panels=panels,
        in_tokens=in_tokens, is_told_alone=is_told_alone,
    )  # fmt: skip
    return _field(Entry(about=about, section=Section.PROBLEM, axis=says), default, None)


def _field(entry: Entry, default: Any, factory: Callable[[], Any] | None) -> Any:
    metadata: Mapping[str, Any] = {_ENTRY: entry}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)
