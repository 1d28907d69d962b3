"""`gqabench ab BASE HEAD [key=value ...]`: did a change make anything slower, larger or wrong?

BASE and HEAD are git revisions of this project, interpreters, or checkouts (`.` is the working tree). Their
implementations are measured in pairs of fresh processes, until every cell is decided or the time is spent.
Exit code: 0 no regression, 1 regression, 2 inconclusive or could not compare. `--self-test` compares this
environment with itself several times, and reports how often that raised a false alarm.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from gqabench.harness.ab.pairs import BASE, NEW, PairRunner
from gqabench.harness.ab.revision_tree import LOCK_NAME, revision_environment
from gqabench.harness.cases.case import Case, InvalidCase
from gqabench.harness.cli.policies import read_policy
from gqabench.harness.cli.verdict_outputs import add_output_arguments, publish
from gqabench.harness.errors import UsageError
from gqabench.harness.machine.source import SOURCE_ROOT
from gqabench.harness.workers.environments import CURRENT_ENVIRONMENT, Environment, read_environments
from gqabench.harness.workers.process import WorkerFailed
from gqabench.results.comparison.policy import Policy

_DEFAULT_KEYS = ("study=smoke", "measure=pairs")


def main(arguments: list[str]) -> int:
    """Run `gqabench ab` and return its exit code."""
    parsed = _parse(arguments)
    policy = read_policy(parsed.policy)
    cases = _cases(parsed.overrides)
    if parsed.self_test:
        environments = {side: Environment(side) for side in (BASE, NEW)}
        return _self_test(_runner(environments, cases, parsed), policy, parsed)
    environments = {side: environment_of(side, getattr(parsed, side)) for side in (BASE, NEW)}
    runner = _runner(environments, cases, parsed)
    return _compare(runner, policy, parsed, len(cases) - len(_valid(cases)))


def environment_of(side: str, text: str) -> Environment:
    """Return the environment that BASE or HEAD stands for. Raises `UsageError`."""
    if not text.strip():
        raise UsageError(f"{side.upper()}: is empty; name a git revision, an interpreter or a checkout")
    path = Path(text).expanduser()
    if (path / "harness").is_dir():
        return read_environments({side: {"source": text}}, Path.cwd())[side]
    if path.is_file() and os.access(path, os.X_OK):
        return read_environments({side: {"python": str(path)}}, Path.cwd())[side]
    return revision_environment(side, Path.cwd(), text, SOURCE_ROOT / LOCK_NAME)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gqabench ab", description=__doc__)
    parser.add_argument(
        "sides", nargs="*", metavar="BASE HEAD", help="git revisions, interpreters, or checkouts"
    )
    parser.add_argument(
        "--self-test",
        action="store_true",
        help="compare this environment with itself, and count false alarms",
    )
    parser.add_argument("--runs", type=int, default=10, help="repetitions of the self-test; default: 10")
    parser.add_argument(
        "--budget", type=float, default=900.0, metavar="SECONDS", help="time budget; default: 900"
    )
    parser.add_argument("--policy", default="default", metavar="NAME|FILE", help="thresholds, as in compare")
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs and of every order")
    add_output_arguments(parser)
    parsed, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    parsed.overrides = [side for side in parsed.sides if "=" in side]
    sides = [side for side in parsed.sides if "=" not in side]
    if len(sides) != (0 if parsed.self_test else 2):
        given = " ".join(sides) or "nothing given"
        wanted = "--self-test takes neither BASE nor HEAD" if parsed.self_test else "needs BASE and HEAD"
        raise UsageError(f"{given}: {wanted}; key=value may follow")
    if not parsed.self_test:
        parsed.base, parsed.head = sides
    for option, number in (("--runs", parsed.runs), ("--budget", parsed.budget)):
        if not number > 0:
            raise UsageError(f"{option} {number:g}: must be positive")
    return parsed


def _cases(overrides: list[str]) -> list[Case | InvalidCase]:
    from gqabench.harness.sweep.composition import compose_cases
    from gqabench.harness.sweep.hydra_errors import mistakes_explained
    from gqabench.harness.sweep.job import close_job_process

    given = {override.partition("=")[0] for override in overrides}
    defaults = [one for one in _DEFAULT_KEYS if one.partition("=")[0] not in given]
    if given & {"model", "kv_len", "batch_size", "num_kv_heads", "workload"}:
        defaults = [one for one in defaults if not one.startswith("study")]
    try:
        with mistakes_explained():
            cases = compose_cases([*defaults, *overrides])
    finally:
        close_job_process()
    for case in cases:
        if any(arm.environment != CURRENT_ENVIRONMENT for arm in case.arms):
            raise UsageError(
                "impls: ab measures each implementation in both environments; name no environment"
            )
    return cases


def _runner(
    environments: dict[str, Environment], cases: list[Case | InvalidCase], parsed: argparse.Namespace
) -> PairRunner:
    """Return what measures the pairs: as long as was asked for, or as is left for each of many cells."""
    given = {override.partition("=")[0] for override in parsed.overrides}
    is_shared_out = not given & {"measure", "measure.seconds_per_arm"}
    return PairRunner(environments, _valid(cases), parsed.seed, is_shared_out=is_shared_out)


def _valid(cases: list[Case | InvalidCase]) -> list[Case]:
    return [case for case in cases if isinstance(case, Case)]


def _compare(runner: PairRunner, policy: Policy, parsed: argparse.Namespace, num_invalid: int) -> int:
    from gqabench.harness.ab.trial import AbTrial
    from gqabench.results.comparison.verdicts import Comparison

    try:
        libraries = runner.libraries()
    except WorkerFailed as failure:
        raise UsageError(f"an environment does not start: {failure}") from failure
    trial = AbTrial(runner, policy, parsed.budget, _say)
    verdicts = trial.run()
    notes = [
        f"{name}: {libraries[BASE].get(name, 'none')} in base, {libraries[NEW].get(name, 'none')} in head"
        for name in sorted(libraries[BASE] | libraries[NEW])
        if libraries[BASE].get(name) != libraries[NEW].get(name)
    ]
    notes.append(f"{len(trial.pairs)} pairs of fresh processes, interleaved; policy {policy.name}")
    if num_invalid:
        notes.append(f"{num_invalid} points of the sweep are not valid problems and were left out")
    if trial.is_out_of_time:
        notes.append(f"the time budget of {parsed.budget:g} s ran out before every cell was decided")
    comparison = Comparison(base=parsed.base, new=parsed.head, verdicts=tuple(verdicts), notes=tuple(notes))
    return publish(comparison, parsed)


def _self_test(runner: PairRunner, policy: Policy, parsed: argparse.Namespace) -> int:
    from gqabench.harness.ab.trial import AbTrial
    from gqabench.results.comparison.false_alarms import FalseAlarms

    alarms = FalseAlarms()
    for number in range(parsed.runs):
        verdicts = AbTrial(runner, policy, parsed.budget / parsed.runs).run()
        alarms = alarms.with_run(verdicts)
        _say(f"run {number + 1} of {parsed.runs}: {alarms.num_alarms} false alarms so far")
    print("\n".join(alarms.lines()))
    return int(alarms.num_alarms > 0)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
