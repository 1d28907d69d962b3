"""Everything that is to be shown on a GPU, in pieces that each end by themselves within seven minutes.

    make gpu-verification ARGS="--piece 1 --archive gpu.tar.gz"

Five pieces, each useful alone: does it work, the point of GQA, our kernels, models, the rest of the reference
studies. A piece is a list of steps with a budget each (`gpu_pieces.py`). Called again it does what it lacks,
also on another machine of the kind, once the archive was unpacked there. `verification.md` in the folder says
how far it has come and what was found: what belongs into docs/gpu-verification.md.

`--rehearse` takes tiny problems on whatever device there is, in a folder `rehearsal`; the page says so.
"""

from __future__ import annotations

import argparse
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import gpu_pieces
from piece_runner import FAILED, PieceRunner, Step, StepStates
from sweep_parts import REHEARSAL, is_rehearsal, positive_seconds, run_script
from verification_page import verification_page

PIECE_SECONDS = 420.0
CLOSING_SECONDS = 20.0
"""For the last page and archive, and for this process to end."""
LEFT_OUT_OF_ARCHIVE = (".unfinished", ".parquet", ".png", ".svg", ".lock")
"""Endings of files that are made again from the records, by `gqabench report` and by resuming."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--piece", type=int, action="append", metavar="N", help="1 to 5; default: all, in order"
    )
    parser.add_argument("--step", action="append", metavar="NAME", help="only these steps, done or not")
    parser.add_argument("--folder", type=Path, default=Path("results/runs/gpu"), metavar="FOLDER")
    parser.add_argument(
        "--seconds", type=positive_seconds, default=PIECE_SECONDS, help="of this call; default: 420"
    )
    parser.add_argument(
        "--since", type=float, metavar="EPOCH", help="when the call began, as of `date +%%s`; default: now"
    )
    parser.add_argument("--archive", type=Path, metavar="FILE.tar.gz", help="pack the folder after each step")
    parser.add_argument("--rehearse", action="store_true", help="tiny problems, on whatever device there is")
    arguments = parser.parse_args()
    spent = 0.0 if arguments.since is None else max(time.time() - arguments.since, 0.0)
    ends_at = time.monotonic() + arguments.seconds - spent - CLOSING_SECONDS
    if not arguments.rehearse and is_rehearsal(False):
        parser.error("there is no NVIDIA GPU here that torch sees; --rehearse shows the pieces without one")
    runs = arguments.folder.resolve()
    folder = runs / REHEARSAL if arguments.rehearse else runs
    for made in (folder, (arguments.archive or folder).resolve().parent):
        try:
            made.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"{made}: {error.strerror}")
    pieces = gpu_pieces.pieces(runs, folder, arguments.rehearse)
    numbers = [piece.number for piece in pieces]
    if unknown := set(arguments.piece or ()) - set(numbers):
        parser.error(f"--piece {min(unknown)}: must be one of {', '.join(map(str, numbers))}")
    of_pieces = [
        step
        for piece in pieces
        if not arguments.piece or piece.number in arguments.piece
        for step in piece.steps
    ]
    names = [step.name for step in of_pieces]
    if missing := set(arguments.step or ()) - set(names):
        parser.error(f"--step {min(missing)}: must be one of {', '.join(names)}")
    states = StepStates(folder / "steps.json")
    chosen = open_steps(of_pieces, states, arguments.step or ())

    def save() -> None:
        page = verification_page(folder, pieces, states.by_name, arguments.rehearse)
        unfinished = folder / "verification.unfinished"
        unfinished.write_text(page)
        unfinished.replace(folder / "verification.md")
        if arguments.archive is not None:
            pack(runs, arguments.archive)

    try:
        PieceRunner(folder, states, ends_at, save).run(chosen)
    finally:
        save()
        num_done = sum(states.is_done(step) for step in of_pieces)
        print(f"{num_done} of {len(of_pieces)} steps are done: {folder / 'verification.md'}")
    ended = [states.by_name[step.name] for step in chosen if step.name in states.by_name]
    sys.exit(any(state.exit_code or state.state == FAILED for state in ended))


def open_steps(steps: Sequence[Step], states: StepStates, named: Sequence[str]) -> list[Step]:
    """Return the steps that were named, or all that are not done."""
    if named:
        return [step for step in steps if step.name in named]
    return [step for step in steps if not states.is_done(step)]


def pack(folder: Path, archive: Path) -> None:
    """Pack a folder as an archive, which stands under its name only when it is whole."""
    unfinished = archive.with_name(f"{archive.name}.unfinished")
    with tarfile.open(unfinished, "w:gz", compresslevel=6) as packed:
        packed.add(
            folder,
            arcname=folder.name,
            filter=lambda entry: None if entry.name.endswith(LEFT_OUT_OF_ARCHIVE) else entry,
        )
    unfinished.replace(archive)


if __name__ == "__main__":
    run_script(main)
