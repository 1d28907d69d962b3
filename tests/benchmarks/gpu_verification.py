"""Everything that is to be shown on a GPU, in one command that knows how long it has.

    make gpu-verification ARGS="--folder results/runs/gpu --seconds 540 --archive gpu.tar.gz"

Tests on the GPU, the flush by hardware counters, the reference runs and our kernels beside their peers: steps
that are done one after the other until the time is up. What was begun goes on with the next call, also on
another machine of the kind, once the archive was unpacked there. `verification.md` in the folder says how far
it has come and what was found: what belongs into docs/gpu-verification.md.

`--rehearse` takes tiny problems on whatever device there is, in a folder `rehearsal`; the page says so.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import kernels_on_gpu
import reference_runs
from sweep_parts import REHEARSAL, REPORT_SECONDS, ROOT, Parts, is_rehearsal, positive_seconds, run_script
from verification_page import verification_page

BENCHMARKS = Path(__file__).parent
SECONDS = "{seconds}"
"""Where a step's command is told its limit."""
_CLOSING_SECONDS = REPORT_SECONDS + 45
"""For the report of a part that is interrupted, its claims, the page and the archive."""
_LEAST_SECONDS = 45
"""A step is not begun with less: loading torch, and the roofs of a sweep, come first."""
_TESTS = {
    "tests": ["-m", "gpu and not alone", "-n", "4", "--dist", "worksteal"],
    "tests_alone": ["-m", "gpu and alone"],
}
_REHEARSED_TESTS = ["-m", "not gpu", "tests/harness/test_cross_check.py"]


@dataclass(frozen=True)
class Step:
    """One thing to be done."""

    name: str
    command: Sequence[str]
    parts: Parts | None = None
    """Where the step keeps its run; None where it is done once its command has ended by itself"""

    def run(self, seconds: float, log: Path) -> int | None:
        """Its exit code; None where it is not done. What it prints goes to the end of the log."""
        command = [str(int(seconds)) if word == SECONDS else word for word in self.command]
        limit = seconds + (_CLOSING_SECONDS if self.parts else 0)  # a part ends itself in time
        with log.open("a") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
            )
            try:
                exit_code = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return None
            except BaseException:
                process.send_signal(signal.SIGTERM)  # a part keeps what it has
                process.wait()
                raise
        return exit_code if self.parts is None or self.parts.is_complete(self.name) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("results/runs/gpu"), metavar="FOLDER")
    parser.add_argument("--seconds", type=positive_seconds, default=540.0, help="of this call; default: 540")
    parser.add_argument("--step", action="append", help="only these, done or not; default: all that are open")
    parser.add_argument("--archive", type=Path, metavar="FILE.tar.gz", help="pack the folder when time is up")
    parser.add_argument("--rehearse", action="store_true", help="tiny problems, on whatever device there is")
    arguments = parser.parse_args()
    ends_at = time.monotonic() + arguments.seconds - _CLOSING_SECONDS
    if not arguments.rehearse and is_rehearsal(False):
        parser.error("there is no NVIDIA GPU here that torch sees; --rehearse shows the steps without one")
    runs = arguments.folder.resolve()
    folder = runs / REHEARSAL if arguments.rehearse else runs
    for made in (folder, (arguments.archive or folder).resolve().parent):
        try:
            made.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"{made}: {error.strerror}")
    all_steps = steps(runs, folder, arguments.rehearse)
    names = [step.name for step in all_steps]
    if unknown := set(arguments.step or ()) - set(names):
        parser.error(f"--step: no {', '.join(sorted(unknown))}; valid: {', '.join(names)}")
    ended = Ended(folder / "steps.json")
    try:
        do_steps(all_steps, ended, folder, ends_at, arguments.step or (), arguments.rehearse)
    finally:
        page = verification_page(folder, names, ended.exit_codes, arguments.rehearse)
        (folder / "verification.md").write_text(page)
        if arguments.archive is not None:
            pack(runs, arguments.archive)
        print(f"{len(ended.exit_codes)} of {len(names)} steps are done: {folder / 'verification.md'}")
    sys.exit(any(ended.exit_codes.values()))


def do_steps(
    all_steps: Sequence[Step],
    ended: Ended,
    folder: Path,
    ends_at: float,
    chosen: Sequence[str],
    rehearses: bool,
) -> None:
    """Those that were chosen, or all that have not ended, as long as there is time."""
    for step in all_steps:
        if step.name not in chosen if chosen else step.name in ended.exit_codes:
            continue
        left = ends_at - time.monotonic()
        if left < (1 if rehearses else _LEAST_SECONDS):
            print(f"{step.name}: no time left; ask again", flush=True)
            return
        started = time.monotonic()
        log = folder / f"{step.name}.log"
        exit_code = step.run(left, log)
        if exit_code is not None:
            ended.remember(step.name, exit_code)
        state = f"not done; ask again, see {log}" if exit_code is None else f"done, exit code {exit_code}"
        print(f"{step.name}: {state}, {time.monotonic() - started:.0f} s", flush=True)


class Ended:
    """The exit codes of steps that have ended by themselves, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.exit_codes: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        except ValueError:
            raise SystemExit(f"{path}: cannot be read; without it all steps count as open") from None

    def remember(self, step: str, exit_code: int) -> None:
        self.exit_codes[step] = exit_code
        unfinished = self._path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self.exit_codes, indent=1) + "\n")
        unfinished.replace(self._path)


def pack(folder: Path, archive: Path) -> None:
    """The folder as an archive, which stands under its name only when it is whole."""
    unfinished = archive.with_name(f"{archive.name}.unfinished")
    with tarfile.open(unfinished, "w:gz") as packed:
        packed.add(
            folder,
            arcname=folder.name,
            filter=lambda entry: None if entry.name.endswith(".unfinished") else entry,
        )
    unfinished.replace(archive)


def steps(runs: Path, folder: Path, rehearses: bool) -> list[Step]:
    """In the order in which they are worth having. The scripts are told `runs`, and write into `folder`."""
    python = sys.executable
    rehearse = ["--rehearse"] if rehearses else []
    tests = [
        Step(name, [python, "-m", "pytest", "-q", *(_REHEARSED_TESTS if rehearses else arguments),
                    f"--junitxml={folder / name}.xml"])
        for name, arguments in _TESTS.items()
    ]  # fmt: skip
    coldness = Step(
        "coldness",
        [python, str(BENCHMARKS / "coldness_by_counters.py"), f"--json={folder / 'coldness.json'}"],
    )
    measured, kernels = Parts(folder), Parts(folder / "kernels")
    reference = [
        Step(name, [python, str(BENCHMARKS / "reference_runs.py"), "--part", name, "--seconds", SECONDS,
                    "--runs", str(runs), *rehearse], measured)
        for name in reference_runs.PARTS
    ]  # fmt: skip
    ours = [
        Step(name, [python, str(BENCHMARKS / "kernels_on_gpu.py"), "--part", name, "--seconds", SECONDS,
                    "--runs", str(runs), "--json", str(folder / "kernels.json"), *rehearse], kernels)
        for name in kernels_on_gpu.PARTS
    ]  # fmt: skip
    return [*tests, coldness, reference[0], *ours[:4], *reference[1:], *ours[4:]]


if __name__ == "__main__":
    run_script(main)
