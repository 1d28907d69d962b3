"""What a comparison says of the environment of its sides: facts that differ, and what all arms did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gqabench.results.store.header_facts import (
    FactsOf,
    code_facts,
    differing,
    host_facts,
    software_facts,
    variable_facts,
)
from gqabench.results.store.run_folder import RunHeader

ENVIRONMENT: tuple[FactsOf, ...] = (software_facts, host_facts, variable_facts)
CODE: tuple[FactsOf, ...] = (code_facts,)
"""No environment, and yet it may move all arms alike."""


@dataclass(frozen=True, kw_only=True)
class FactChange:
    """A fact of the runs' headers that differs between the sides."""

    name: str
    """`torch`, `driver`, `microcode`, `git revision`, ..."""
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class CommonChange:
    """All arms changed alike, beyond the minimum effect by more than their cells scatter."""

    change: float
    """Relative, of the latency: 0.08 is 8 % slower."""
    change_low: float
    change_high: float
    """95 % interval."""
    num_moved: int
    """Cells that moved by at least half of it, in its direction."""
    num_cells: int
    """Cells whose latencies were compared."""
    num_arms: int
    is_beyond_runs: bool
    """By more than runs scatter, too. If not, two single runs differ as a whole, and whether the next ones
    would is not known."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentMove:
    """The environment of the sides is not the same, by what is recorded or by what all arms did."""

    facts: tuple[FactChange, ...] = ()
    """Of libraries, driver, firmware and settings, those that changed; empty where no recorded one did."""
    code: tuple[FactChange, ...] = ()
    """Of the code and the method, those that changed."""
    common: CommonChange | None = None
    """None where the arms did not move alike, or are too few to tell."""

    is_suspected: bool = False
    """All that speaks for it is that two single runs differ as a whole, no more than runs may scatter."""


def fact_changes(
    before: Sequence[RunHeader], after: Sequence[RunHeader], kinds: Sequence[FactsOf]
) -> tuple[FactChange, ...]:
    """Return the facts that both sides' headers record, and that differ."""
    return tuple(
        FactChange(name=name, before=old, after=new)
        for facts_of in kinds
        for name, old, new in differing(before, after, facts_of)
        if old is not None and new is not None
    )
