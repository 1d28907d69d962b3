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
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import kernels_on_gpu
import reference_runs
from sweep_parts import REHEARSAL, ROOT, Parts
from verification_page import verification_page

BENCHMARKS = Path(__file__).parent
_CLOSING_SECONDS = 20
"""For the page and the archive."""
_LEAST_SECONDS = 45
"""A step is not begun with less: loading torch, and the roofs of a sweep, come first."""
_TESTS = {
    "tests": ["-m", "gpu and not alone", "-n", "4", "--dist", "worksteal"],
    "tests_alone": ["-m", "gpu and alone"],
}
_REHEARSED_TESTS = ["-m", "not gpu", "tests/harness/test_cross_check.py"]


@dataclass(frozen=True)
class Step:
    """One thing to be done, with a limit that `{seconds}` stands for."""

    name: str
    command: Sequence[str]
    parts: Parts | None = None
    """Where the step keeps its run; None where it is done once its command has ended by itself"""

    def run(self, seconds: float, log: Path) -> int | None:
        """Its exit code; None where it is not done. What it prints goes to the end of the log."""
        command = [word.format(seconds=int(seconds)) for word in self.command]
        with log.open("a") as output:
            try:
                limit = seconds + (_CLOSING_SECONDS if self.parts else 0)  # a part ends itself in time
                ended = subprocess.run(
                    command, cwd=ROOT, stdout=output, stderr=output, timeout=limit, check=False
                )
            except subprocess.TimeoutExpired:
                return None
        return ended.returncode if self.parts is None or self.parts.is_complete(self.name) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("results/runs/gpu"), metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=540.0, help="of this call; default: 540")
    parser.add_argument("--step", action="append", help="only these; default: all, in order")
    parser.add_argument("--archive", type=Path, metavar="FILE.tar.gz", help="pack the folder when time is up")
    parser.add_argument("--rehearse", action="store_true", help="tiny problems, on whatever device there is")
    arguments = parser.parse_args()
    ends_at = time.monotonic() + arguments.seconds - _CLOSING_SECONDS
    runs = arguments.folder.resolve()
    folder = runs / REHEARSAL if arguments.rehearse else runs
    folder.mkdir(parents=True, exist_ok=True)
    all_steps = steps(runs, folder, arguments.rehearse)
    if unknown := set(arguments.step or ()) - {step.name for step in all_steps}:
        parser.error(
            f"--step: no {', '.join(sorted(unknown))}; valid: {', '.join(s.name for s in all_steps)}"
        )
    done_path = folder / "steps.json"
    done: dict[str, int] = json.loads(done_path.read_text()) if done_path.exists() else {}
    for step in all_steps:
        left = ends_at - time.monotonic()
        if step.name in done or (arguments.step and step.name not in arguments.step):
            continue
        if left < (0 if arguments.rehearse else _LEAST_SECONDS):
            print(f"{step.name}: no time left; ask again", flush=True)
            break
        started = time.monotonic()
        exit_code = step.run(left, folder / f"{step.name}.log")
        if exit_code is not None:
            done[step.name] = exit_code
            done_path.write_text(json.dumps(done, indent=1) + "\n")
        state = "not done; ask again" if exit_code is None else f"done, exit code {exit_code}"
        print(f"{step.name}: {state}, {time.monotonic() - started:.0f} s", flush=True)
    page = verification_page(folder, [step.name for step in all_steps], done, arguments.rehearse)
    (folder / "verification.md").write_text(page)
    if arguments.archive is not None:
        with tarfile.open(arguments.archive, "w:gz") as archive:
            archive.add(runs, arcname=runs.name)
    print(f"{len(done)} of {len(all_steps)} steps are done: {folder / 'verification.md'}")


def steps(runs: Path, folder: Path, is_rehearsal: bool) -> list[Step]:
    """In the order in which they are worth having. The scripts are told `runs`, and write into `folder`."""
    python = sys.executable
    rehearse = ["--rehearse"] if is_rehearsal else []
    tests = [
        Step(name, [python, "-m", "pytest", "-q", *(_REHEARSED_TESTS if is_rehearsal else arguments),
                    f"--junitxml={folder / name}.xml"])
        for name, arguments in _TESTS.items()
    ]  # fmt: skip
    coldness = Step(
        "coldness",
        [python, str(BENCHMARKS / "coldness_by_counters.py"), f"--json={folder / 'coldness.json'}"],
    )
    measured, kernels = Parts(folder), Parts(folder / "kernels")
    reference = [
        Step(name, [python, str(BENCHMARKS / "reference_runs.py"), "--part", name, "--seconds", "{seconds}",
                    "--runs", str(runs), *rehearse], measured)
        for name in reference_runs.PARTS
    ]  # fmt: skip
    ours = [
        Step(name, [python, str(BENCHMARKS / "kernels_on_gpu.py"), "--part", name, "--seconds", "{seconds}",
                    "--runs", str(runs), "--json", str(folder / "kernels.json"), *rehearse], kernels)
        for name in kernels_on_gpu.PARTS
    ]  # fmt: skip
    return [*tests, coldness, reference[0], *ours[:4], *reference[1:], *ours[4:]]


if __name__ == "__main__":
    main()
