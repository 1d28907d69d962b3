"""`gqabench baseline update RUN [RUN ...]` and `gqabench baseline list`: committed reference runs."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from gqabench.harness.cli.text_table import print_table
from gqabench.harness.errors import UsageError
from gqabench.results import UnreadableRun


def main(arguments: list[str]) -> int:
    """Run `gqabench baseline` and return its exit code."""
    from gqabench.results.store.baselines import BASELINES_FOLDER, THINNING

    parser = argparse.ArgumentParser(prog="gqabench baseline", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    update = commands.add_parser(
        "update", help="write the baseline of a study", description=f"Writes: {THINNING}."
    )
    update.add_argument("runs", nargs="+", metavar="RUN", help="complete runs of one study on one machine")
    update.add_argument("--study", metavar="NAME", help="default: the study of the runs")
    listing = commands.add_parser("list", help="list the baselines")
    for command in (update, listing):
        command.add_argument(
            "--into", type=Path, default=BASELINES_FOLDER, metavar="FOLDER", help="default: %(default)s"
        )
    parsed = parser.parse_args(arguments)
    if parsed.command == "list":
        return _list(parsed.into)
    return _update(parsed, shlex.join(["gqabench", "baseline", *arguments]))


def _update(parsed: argparse.Namespace, command: str) -> int:
    from gqabench.results.store.baselines import NoBaseline, write_baseline

    try:
        baseline = write_baseline(parsed.runs, parsed.into, parsed.study, command)
    except (NoBaseline, UnreadableRun) as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"--into {parsed.into}: cannot be written: {error.strerror}") from error
    outcomes = ", ".join(f"{number} {outcome}" for outcome, number in baseline.num_by_outcome.items())
    print(f"{baseline.num_records} records ({outcomes}), {baseline.num_bytes / 1024:.0f} KiB")
    print(f"baseline: {baseline.folder}")
    return 0


def _list(folder: Path) -> int:
    from gqabench.results.store.baselines import list_baselines

    try:
        baselines = list(list_baselines(folder))
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}: {error}") from error
    if not baselines:
        print(f"no baselines in {folder}")
        return 0
    rows = [
        (
            one.machine,
            one.study,
            one.num_records,
            f"{one.num_bytes / 1024:.0f}",
            max((header.created_at[:10] for header in one.headers), default=""),
            one.revisions,
        )
        for one in baselines
    ]
    print_table(["machine", "study", "records", "KiB", "measured", "revision"], rows, left_columns=2)
    return 0
