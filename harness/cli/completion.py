"""Shell completion: Hydra completes the keys of a sweep, this module the commands around it.

`eval "$(gqabench sweep -sc install=bash)"` installs Hydra's script, which calls `gqabench -sc query=bash`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from gqabench.harness.cli.commands import COMMANDS, LISTINGS

_SECOND_WORDS = {"list": LISTINGS}


def complete(arguments: list[str]) -> int:
    """Print the words that may come next in the line that the shell passes in `COMP_LINE`."""
    line = os.environ.get("COMP_LINE", "")
    program, *words = line.split()
    if len(words) > 1 or (words and line.endswith(" ")):
        if words[0] == "sweep":
            # Hydra completes `PROGRAM OVERRIDES`: take our command out of the line.
            os.environ["COMP_LINE"] = " ".join([program, *words[1:]]) + (" " if line.endswith(" ") else "")
            from gqabench.harness.cli.sweep import main as sweep

            return sweep(arguments)
        print(" ".join(_later_words(words[0], words[1:] if line.endswith(" ") else words[1:-1])))
    else:
        print(" ".join(COMMANDS))
    return 0


def _later_words(command: str, typed: list[str]) -> Iterable[str]:
    """Return what may follow a command and the words after it that are whole; files, where it is nothing."""
    if command == "samples":
        from gqabench.harness.cli.samples import cell_words

        return cell_words(typed)
    return _SECOND_WORDS.get(command, ())
