"""What parent and worker say to one another: one JSON object a line, a request, then its reply."""

from __future__ import annotations

import json
from typing import IO, Any

PROTOCOL_VERSION = 2

Message = dict[str, Any]


def send(stream: IO[str], message: Message) -> None:
    """Write one message. Raises `BrokenPipeError` when the other side is gone."""
    stream.write(json.dumps(message, allow_nan=False) + "\n")
    stream.flush()


def receive(stream: IO[str]) -> Message | None:
    """Read one message; None when the other side has closed."""
    line = stream.readline()
    if not line.endswith("\n"):
        return None
    message = json.loads(line)
    assert isinstance(message, dict)
    return message
