"""What is learnt of one arm, request by request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_ERRORS = ("max_error", "error_ratio")


@dataclass
class ArmFacts:
    """What has been learnt of one arm so far, as record fields."""

    fields: dict[str, Any] = field(default_factory=dict)

    def add(self, reply: dict[str, Any]) -> None:
        """Of errors the largest is kept, of all else the latest."""
        for key, value in reply.items():
            known = self.fields.get(key)
            is_smaller = key in _ERRORS and known is not None and (value is None or value < known)
            if key != "ok" and not is_smaller:
                self.fields[key] = value
