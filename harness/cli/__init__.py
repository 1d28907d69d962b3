"""The command line: `gqabench COMMAND`. It alone imports `reports` besides the rest of the harness."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from gqabench.harness.cli.commands import COMMANDS
from gqabench.harness.errors import UsageError

USAGE_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    A user's mistake is one line on standard error and exit code 2.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] in {"-sc", "--shell-completion"}:
        from gqabench.harness.cli.completion import complete

        return complete(arguments)
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(_usage())
        return 0
    if arguments[0] == "--version":
        from gqabench.harness.machine.source import gqabench_version

        print(f"gqabench {gqabench_version()}")
        return 0
    name, *rest = arguments
    try:
        if name not in COMMANDS:
            raise UsageError(f"{name}: unknown command; valid: {', '.join(COMMANDS)}")
        command: Callable[[list[str]], int] = import_module(COMMANDS[name][0]).main
        return command(rest)
    except UsageError as error:
        print(f"gqabench {name}: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_EXIT_CODE
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT_CODE
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has closed the pipe
        return 1


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: gqabench COMMAND [ARGUMENTS]",
            "",
            "Measures what grouped-query attention costs: KV-cache memory, latency, throughput, energy.",
            "",
            *lines,
            "",
            "Run `gqabench COMMAND --help` for its options. A first sweep: gqabench sweep study=smoke",
        ]
    )
