"""`gqabench compare BASE NEW`: did stored runs become slower, larger or wrong?

BASE and NEW are runs' folders, files of records, or globs of several runs. Exit code: 0 no regression,
1 regression, 2 could not compare. Where the environment of the two sides moved, the last line says so, and
arms are judged against each other: what became slower with all arms is inconclusive.
"""

from __future__ import annotations

import argparse

from gqabench.harness.cli.policies import read_policy
from gqabench.harness.cli.verdict_outputs import add_output_arguments, publish
from gqabench.harness.errors import UsageError
from gqabench.results import UnreadableRun


def main(arguments: list[str]) -> int:
    """Run `gqabench compare` and return its exit code."""
    parser = argparse.ArgumentParser(prog="gqabench compare", description=__doc__)
    parser.add_argument("base", metavar="BASE", help="the earlier state: a run, or a glob of runs in quotes")
    parser.add_argument("new", metavar="NEW", help="the later state: a run, or a glob of runs in quotes")
    parser.add_argument(
        "--policy",
        default="default",
        metavar="NAME|FILE",
        help="thresholds: conf/regression/NAME.yaml, or a file",
    )
    parser.add_argument(
        "--across-machines",
        action="store_true",
        help="compare runs of different machines: bytes, outcomes and shares of the roof only",
    )
    add_output_arguments(parser)
    parsed = parser.parse_args(arguments)
    from gqabench.results.comparison.compared_side import NotComparable, load_side
    from gqabench.results.comparison.stored_runs import compare_sides

    policy = read_policy(parsed.policy)
    try:
        base, new = load_side(parsed.base), load_side(parsed.new)
        comparison = compare_sides(base.without(new), new, policy, across_machines=parsed.across_machines)
    except (UnreadableRun, NotComparable) as error:
        raise UsageError(str(error)) from error
    return publish(comparison, parsed)
