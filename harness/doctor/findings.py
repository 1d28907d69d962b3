"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is. Warnings and problems disturb; a note is to be known."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"

    @property
    def disturbs(self) -> bool:
        return self in (Level.WARNING, Level.PROBLEM)


@dataclass(frozen=True)
class Finding:
    """The answer of one check."""

    check: str
    level: Level
    what: str
    fix: str | None = None
    """What to do about it, if anything"""
