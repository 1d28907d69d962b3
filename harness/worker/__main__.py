"""`python -m gqabench.harness.worker`: serves requests on standard input until it closes."""

from __future__ import annotations

import gc
import os
import signal
import sys

from gqabench.harness.worker.isolation import (
    die_with_parent,
    prefer_as_oom_victim,
    take_over_stdin,
    take_over_stdout,
)


def main() -> None:
    """Serve requests until standard input closes, then end at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    die_with_parent(int(sys.argv[1]))
    prefer_as_oom_victim()
    requests, replies = take_over_stdin(), take_over_stdout()

    from gqabench.harness.worker.server import serve  # after the take-over: importing torch may print

    gc.freeze()  # what was imported stays: to look through it takes 0.15 s, and may fall into a timed call
    serve(requests, replies)
    sys.stderr.flush()
    os._exit(0)  # an implementation's threads must not keep a finished worker alive


if __name__ == "__main__":
    main()
