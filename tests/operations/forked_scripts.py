"""The scripts of `operations`, loaded once: a call is forked, and so are scripts and sweeps that it starts.

Each is a process of its own from its first line to its exit, with its own session, files and signals. What
it does without are the seconds of importing Hydra, pandas and PyTorch, of which a piece would spend most.
Run as a program this is the server of a `ForkedCommand`.
"""

from __future__ import annotations

import atexit
import gc
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.harness.forked_command import serve

OPERATIONS = Path(__file__).resolve().parents[2] / "operations"
SCRIPTS = (
    "gpu_verification.py", "kernels_on_gpu.py", "model_layers.py", "quick_checks.py", "reference_runs.py",
)  # fmt: skip
LOADED = (
    *(name.removesuffix(".py") for name in SCRIPTS),
    "gqabench.harness.cli.sweep",
    "gqabench.harness.sweep.job",
    "gqabench.harness.sweep.sweeper",
    "gqabench.results.store.frame",
    "gqabench.results.store.parquet",
    "hydra.main",
    "pyarrow.dataset",
)


class ForkingPopen(subprocess.Popen[Any]):
    """Starts a script of `operations`, or the `gqabench` that they call, by forking; all else as ever.

    The program runs where a new process would otherwise be replaced: `preexec_fn` is called in its folder
    and session, with its files.
    """

    def __init__(self, args: Sequence[str], **options: Any) -> None:
        if _is_forkable(args):
            sys.stdout.flush()  # what is not written yet would be written twice
            sys.stderr.flush()
            options["preexec_fn"] = partial(_run_to_its_end, args[1:])
        super().__init__(args, **options)


def _is_forkable(command: Sequence[str]) -> bool:
    from sweep_parts import PROGRAM

    is_program = list(command[: len(PROGRAM)]) == PROGRAM
    return is_program or (command[0] == sys.executable and Path(command[1]).parent == OPERATIONS)


def _run_to_its_end(arguments: Sequence[str]) -> None:
    os.closerange(3, max(os.sysconf("SC_OPEN_MAX"), 4096))  # as for a new program; for one the parent waits
    gc.enable()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code: object = 1
    try:
        code = _run(arguments)
    except SystemExit as exit_:
        code = exit_.code
    except BaseException as error:  # noqa: BLE001  as an interpreter does
        sys.excepthook(*sys.exc_info())
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def _run(arguments: Sequence[str]) -> int:
    """Run what `python ARGUMENTS` would: a script, or `-c` and its text."""
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = list(arguments)
        runpy.run_path(arguments[0], run_name="__main__")
    return 0


def main() -> int:
    """Run one call, in the process that was forked for it."""
    return _run(sys.argv[1:])


if __name__ == "__main__":
    sys.path.insert(0, str(OPERATIONS))
    for module in LOADED:
        import_module(module)
    subprocess.Popen = ForkingPopen  # type: ignore[misc]
    sys.exit(serve(Path(sys.argv[1]), main))
