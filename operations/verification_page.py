"""What was seen on a GPU, as a page: from the files that pieces leave in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gpu_pieces import Piece
from measured_lines import (
    claim_lines,
    kernel_lines,
    model_lines,
    published_comparison_lines,
    read_report,
)
from piece_runner import RUNNING, StepState
from quick_checks import checks, lines_of

GIB = 2**30


STATES = {
    "done": "done",
    "open": "to be continued",
    "killed": "killed at its limit",
    "failed": "failed",
    RUNNING: "begun, and not ended",
}


def verification_page(
    folder: Path, pieces: Sequence[Piece], states: Mapping[str, StepState], is_rehearsal: bool
) -> str:
    """Return Markdown. What has not been done, or ended badly, is said and not left out."""
    lines = ["# Verification on a GPU", ""]
    if is_rehearsal:
        lines += ["**A rehearsal on tiny problems: nothing here was measured for its own sake.**", ""]
    sections: Sequence[tuple[str, Callable[[], Iterator[str]]]] = (
        ("Pieces", lambda: piece_lines(pieces, states)),
        ("Machine", lambda: machine_lines(folder)),
        ("Checks", lambda: check_lines(folder)),
        ("Claims", lambda: claim_lines(folder)),
        ("Our kernels", lambda: kernel_lines(folder)),
        ("Beside public figures", lambda: published_comparison_lines(folder)),
        ("Models", lambda: model_lines(folder)),
        ("Cold caches by counters", lambda: coldness_lines(folder)),
        ("Tests", lambda: pytest_lines(folder)),
    )
    for title, section in sections:
        lines += [f"## {title}", "", *(_lines_or_reason(section) or ["Nothing yet."]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _lines_or_reason(section: Callable[[], Iterator[str]]) -> list[str]:
    """Return a section's lines; where a file of it is not as expected, that, and the other sections stand."""
    try:
        return list(section())
    except (KeyError, TypeError, ValueError, ElementTree.ParseError) as error:
        return [f"Its file cannot be read: {type(error).__name__}: {error}"]


def piece_lines(pieces: Sequence[Piece], states: Mapping[str, StepState]) -> Iterator[str]:
    """Yield how far each step of each piece has come."""
    yield "| piece | step | shows | state | seconds |"
    yield "|---|---|---|---|---:|"
    for piece in pieces:
        for step in piece.steps:
            state = states.get(step.name)
            said = "not begun" if state is None else STATES[state.state]
            if state is not None and state.exit_code:
                said += f", exit code {state.exit_code}"
            seconds = "-" if state is None else f"{state.seconds:.0f}"
            yield f"| {piece.number}. {piece.title} | `{step.name}` | {step.shows} | {said} | {seconds} |"


def check_lines(folder: Path) -> Iterator[str]:
    """Yield the latest outcome of each check; those that were not made are named."""
    latest = {line["name"]: line for line in lines_of(folder / "checks.jsonl")}
    if not latest:
        return
    yield "| check | outcome | s | error of budget | ms, cold | ms in a graph | ran, or why not |"
    yield "|---|---|---:|---:|---:|---:|---|"
    for line in latest.values():
        seen = line.get("seen", {})
        numbers = (seen.get(key) for key in ("error_ratio", "latency_ms", "graph_latency_ms"))
        what = line.get("reason") or ", ".join(seen.get("kernels", ())) or _plainly(seen)
        cells = " | ".join("-" if number is None else f"{number:.3g}" for number in numbers)
        yield f"| {line['name']} | {line['outcome']} | {line['seconds']:.0f} | {cells} | {_cell(what)} |"
    if missing := [check.name for check in checks() if check.name not in latest]:
        yield ""
        yield f"- Not made yet: {', '.join(missing)}."


def _plainly(seen: Mapping[str, Any]) -> str:
    """Return the numbers of a check that is of no implementation."""
    told = {key: value for key, value in seen.items() if isinstance(value, (int, float, str))}
    told |= {key: value["best"] for key, value in seen.items() if isinstance(value, dict) and "best" in value}
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in told.items()
    )


def _cell(text: str) -> str:
    """Return text that does not end a cell of a table."""
    short = text if len(text) <= 200 else text[:200] + "..."
    return short.replace("|", "/").replace("\n", " ")


def machine_lines(folder: Path) -> Iterator[str]:
    """Return the GPU, its driver and limits, and the libraries, by the newest run."""
    runs = sorted((path.stat().st_mtime, path) for path in folder.glob("**/run.json"))
    if not runs:
        return
    machine = json.loads(runs[-1][1].read_text())["machine"]
    devices = [device for one in (machine, *machine.get("earlier_machines", [])) for device in one["devices"]]
    for device in devices:
        if device["device"] == "cpu":
            continue
        memory_gib = (device.get("memory_bytes") or 0) / GIB
        yield (
            f"- {device['name']}, compute capability {device.get('compute_capability')}, "
            f"{device.get('num_multiprocessors')} multiprocessors, {memory_gib:.0f} GiB, "
            f"driver {device.get('driver')}, power limit {device.get('power_limit_w')} W"
        )
    cpu, system = machine["cpu"], machine["system"]
    yield f"- {cpu['model']}, {cpu['num_logical_cores']} logical cores; {system['os']}, {system['kernel']}"
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items() if version)
    yield f"- Python {system['python']}; {libraries}"
    code = machine["code"]
    dirt = " with changes" if code["git_dirty"] else ""
    yield f"- gqabench {code['gqabench']}, revision {str(code['git_revision'])[:12]}{dirt}"


def pytest_lines(folder: Path) -> Iterator[str]:
    """Return what pytest says, and each failure's first line."""
    for name in ("tests", "tests_alone"):
        path = folder / f"{name}.xml"
        if not path.exists():
            continue
        suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
        number = {
            key: sum(int(suite.get(key, 0)) for suite in suites)
            for key in ("tests", "failures", "errors", "skipped")
        }
        seconds = sum(float(suite.get("time", 0)) for suite in suites)
        passed = number["tests"] - number["failures"] - number["errors"] - number["skipped"]
        yield (
            f"- `{name}`: {passed} passed, {number['failures']} failed, {number['errors']} errors,"
            f" {number['skipped']} skipped, in {seconds:.0f} s"
        )
        for case in (case for suite in suites for case in suite.iter("testcase")):
            for problem in [*case.iter("failure"), *case.iter("error")]:
                said = (problem.get("message") or "").strip().splitlines()
                yield f"  - {case.get('name')}: {said[0][:300] if said else 'no message'}"


def coldness_lines(folder: Path) -> Iterator[str]:
    """Return what share of K and V a call reads from DRAM, after a flush and without one."""
    if (report := read_report(folder / "coldness.json")) is None:
        return
    yield "| implementation | read after a flush | read without one |"
    yield "|---|---:|---:|"
    for impl, shares in report["share_of_kv_read_from_dram"].items():
        yield f"| `{impl}` | {shares['cold']:.1%} | {shares['warm']:.1%} |"
