"""Where the verdicts of `compare` and `ab` go: options of the command line, and writing the files."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from gqabench.harness.errors import UsageError
from gqabench.results.comparison.verdicts import INCONCLUSIVE_POLICIES, Comparison

FIGURE_SUFFIXES = (".png", ".svg")
_SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
_ON_GITHUB_VARIABLE = "GITHUB_ACTIONS"


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `publish` reads."""
    group = parser.add_argument_group("outputs")
    for name, what in (
        ("json", "all verdicts, as JSON"),
        ("markdown", "a table for a pull request"),
        ("junit", "JUnit XML, a test case for each verdict"),
        ("benchmark-action", "the JSON of github-action-benchmark (customSmallerIsBetter)"),
        ("figure", "a figure of effects with their intervals: .png or .svg"),
    ):
        group.add_argument(f"--{name}", type=_file, metavar="FILE", help=what)
    group.add_argument(
        "--annotations",
        action="store_true",
        help="print annotations for GitHub; always on in GitHub Actions",
    )
    group.add_argument(
        "--inconclusive",
        choices=INCONCLUSIVE_POLICIES,
        default="warn",
        help="how to treat inconclusive cells: exit code 2 (fail), a warning, or nothing; default: warn",
    )


def publish(comparison: Comparison, parsed: argparse.Namespace) -> int:
    """Print the comparison, write the requested files, and return the exit code.

    In a GitHub Actions job the Markdown is also appended to the job's summary. A file that cannot be written
    is reported on standard error and does not stop the others; without a regression the exit code is then 2.
    Raises `UsageError` for an unknown kind of figure.
    """
    if parsed.figure is not None and parsed.figure.suffix not in FIGURE_SUFFIXES:
        raise UsageError(f"--figure {parsed.figure}: must end with {' or '.join(FIGURE_SUFFIXES)}")
    from rich.console import Console

    from gqabench.reports.verdicts.machine_formats import github_annotations
    from gqabench.reports.verdicts.markdown import comparison_markdown
    from gqabench.reports.verdicts.terminal import print_comparison

    print_comparison(comparison, Console(width=None if os.isatty(1) else 200))
    failures = []
    for option, content in _files(comparison, parsed):
        failures += _write(option, getattr(parsed, option.replace("-", "_")), content)
    if parsed.annotations or os.environ.get(_ON_GITHUB_VARIABLE) == "true":
        print("\n".join(github_annotations(comparison, parsed.inconclusive)))
    if summary := os.environ.get(_SUMMARY_VARIABLE):
        failures += _append(Path(summary), comparison_markdown(comparison))
    for failure in failures:
        print(f"gqabench: {failure}", file=sys.stderr)
    return comparison.exit_code(parsed.inconclusive) or (2 if failures else 0)


def _files(comparison: Comparison, parsed: argparse.Namespace) -> list[tuple[str, bytes]]:
    """Return the requested files: option and content."""
    from gqabench.reports.verdicts.machine_formats import benchmark_action_json, comparison_json, junit_xml
    from gqabench.reports.verdicts.markdown import comparison_markdown

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
        from gqabench.reports.verdicts.effects import effects_figure  # here: matplotlib is slow to load

        try:
            files.append(("figure", effects_figure(comparison, parsed.figure.suffix)))
        except ValueError as error:
            print(f"gqabench: no {parsed.figure}: {error}", file=sys.stderr)
    return files


def _file(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; name a file")
    return Path(text)


def _write(option: str, path: Path, content: bytes) -> list[str]:
    """Write a file; return what went wrong."""
    from gqabench.reports.writing import write_atomically

    try:
        write_atomically(path, content)
    except OSError as error:
        return [f"--{option} {path}: cannot be written: {error.strerror}"]
    return []


def _append(path: Path, text: str) -> list[str]:
    """Append to a file; return what went wrong."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        return [f"{_SUMMARY_VARIABLE}={path}: cannot be written: {error.strerror}"]
    return []
