"""Where the verdicts of `compare` and `ab` go: options of the command line, and the writing."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from harness.errors import UsageError
from results.verdicts import INCONCLUSIVE_POLICIES, Comparison

_SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
_ON_GITHUB_VARIABLE = "GITHUB_ACTIONS"


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that `publish` reads."""
    group = parser.add_argument_group("outputs")
    for name, what in (
        ("json", "all verdicts, as JSON"),
        ("markdown", "a table for a pull request"),
        ("junit", "JUnit XML, a test case for each verdict"),
        ("benchmark-action", "the JSON of github-action-benchmark (customSmallerIsBetter)"),
        ("figure", "effects with their intervals: .png or .svg"),
    ):
        group.add_argument(f"--{name}", type=Path, metavar="FILE", help=what)
    group.add_argument(
        "--annotations",
        action="store_true",
        help="lines that GitHub shows; so it is on GitHub Actions anyway",
    )
    group.add_argument(
        "--inconclusive",
        choices=INCONCLUSIVE_POLICIES,
        default="warn",
        help="what cells that cannot tell mean: exit code 2 (fail), a warning, or nothing; default: warn",
    )


def publish(comparison: Comparison, parsed: argparse.Namespace) -> int:
    """Print the comparison, write the files that were asked for; returns the exit code.

    In a job on GitHub also appends the Markdown to its summary. Raises `UsageError` for a file that cannot be
    written, and for a figure of a comparison without effects.
    """
    from rich.console import Console

    from reports.verdicts.machine_formats import github_annotations
    from reports.verdicts.markdown import comparison_markdown
    from reports.verdicts.terminal import print_comparison

    print_comparison(comparison, Console(width=None if os.isatty(1) else 200))
    for option, content in _files(comparison, parsed):
        _write(option, getattr(parsed, option.replace("-", "_")), content)
    if parsed.annotations or os.environ.get(_ON_GITHUB_VARIABLE) == "true":
        print("\n".join(github_annotations(comparison)))
    if summary := os.environ.get(_SUMMARY_VARIABLE):
        _append(Path(summary), comparison_markdown(comparison))
    return comparison.exit_code(parsed.inconclusive)


def _files(comparison: Comparison, parsed: argparse.Namespace) -> list[tuple[str, bytes]]:
    """The files that were asked for: option and content."""
    from reports.verdicts.machine_formats import benchmark_action_json, comparison_json, junit_xml
    from reports.verdicts.markdown import comparison_markdown

    texts = {
        "json": comparison_json,
        "markdown": comparison_markdown,
        "junit": junit_xml,
        "benchmark-action": benchmark_action_json,
    }
    files = [
        (option, make(comparison).encode())
        for option, make in texts.items()
        if getattr(parsed, option.replace("-", "_")) is not None
    ]
    if parsed.figure is not None:
        from reports.verdicts.effects import effects_figure  # here: matplotlib is slow to load

        try:
            files.append(("figure", effects_figure(comparison, parsed.figure.suffix)))
        except ValueError as error:
            raise UsageError(f"--figure {parsed.figure}: {error}") from error
    return files


def _write(option: str, path: Path, content: bytes) -> None:
    from reports.writing import write_atomically

    try:
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"--{option} {path}: cannot be written: {error.strerror}") from error


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{_SUMMARY_VARIABLE}={path}: cannot be written: {error.strerror}") from error
