"""What a comparison says of the environment of its sides: facts that differ, and what all arms did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FactChange:
    """A fact of the runs' headers that differs between the sides."""

    name: str
    """`torch`, `driver`, `microcode`, `git revision`, ..."""
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class CommonChange:
    """All arms changed alike, by more than runs, or the cells of two runs, scatter."""

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
    is_one_run_a_side: bool
    """Two runs differ as a whole. Whether the next ones would, one run a side cannot tell."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentMove:
    """The environment of the sides is not the same, by what is recorded or by what all arms did."""

    facts: tuple[FactChange, ...] = ()
    """Of libraries, driver, firmware and settings, those that changed; empty where no recorded one did."""
    code: tuple[FactChange, ...] = ()
    """Of the code and the method. They are no environment, and yet may move all arms alike."""
    common: CommonChange | None = None
    """None where the arms did not move alike, or are too few to tell."""

    is_suspected: bool = False
    """All that speaks for it is that two single runs differ as a whole."""
