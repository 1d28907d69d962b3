"""Short hashes of plain values, as identities."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def short_hash(values: dict[str, Any]) -> str:
    """Hash some plain values to twelve hexadecimal digits."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
