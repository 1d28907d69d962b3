"""What was seen on a GPU, as a page: from the files that `gpu_verification.py` leaves in a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

GIB = 2**30


def verification_page(
    folder: Path, steps: Sequence[str], exit_codes: Mapping[str, int], is_rehearsal: bool
) -> str:
    """Markdown. What has not been done, or ended badly, is said and not left out."""
    lines = ["# Verification on a GPU", ""]
    if is_rehearsal:
        lines += ["**A rehearsal on tiny problems: nothing here was measured for its own sake.**", ""]
    done = [step for step in steps if exit_codes.get(step) == 0]
    bad = [f"{step} ({code})" for step in steps if (code := exit_codes.get(step))]
    missing = [step for step in steps if step not in exit_codes]
    for what, names in (("Done", done), ("Ended with an exit code", bad), ("Not done", missing)):
        lines += [f"- {what}: {', '.join(names) or 'none'}"]
    lines += [""]
    for title, section in (
        ("Machine", machine_lines(folder)),
        ("Tests", pytest_lines(folder)),
        ("Cold caches", coldness_lines(folder)),
        ("Claims", claim_lines(folder)),
        ("Our kernels", kernel_lines(folder)),
    ):
        lines += [f"## {title}", "", *(list(section) or ["Nothing yet."]), ""]
    return "\n".join(lines).rstrip() + "\n"


def machine_lines(folder: Path) -> Iterator[str]:
    """The GPU, its driver and limits, and the libraries, by the newest run."""
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
    """What pytest says, and each failure's first line."""
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
    """What share of K and V a call reads from DRAM, after a flush and without one."""
    if (report := _report(folder / "coldness.json")) is None:
        return
    yield "| implementation | read after a flush | read without one |"
    yield "|---|---:|---:|"
    for impl, shares in report["share_of_kv_read_from_dram"].items():
        yield f"| `{impl}` | {shares['cold']:.1%} | {shares['warm']:.1%} |"


def claim_lines(folder: Path) -> Iterator[str]:
    """What the reference runs say of the literature, of the clocks, and of two equal runs."""
    if (claims := _report(folder / "claims.json")) is None:
        return
    yield from _rehearsed(claims)
    yield f"Decode by number of KV heads: {claims['decode_of']}. Times are medians of cold calls, by events."
    yield ""
    yield from _by_heads(claims["cache_bytes_by_kv_heads"], claims["decode_ms_relative_to_mha"])
    num_rows = sum((claims["outcomes"] or {}).values())
    yield f"- Of {num_rows} rows: {_counts(claims['outcomes'])}. Flags: {_counts(claims['flags'])}."
    yield f"- Rows above their roof: {len(claims['rows_above_their_roof'] or ())}."
    for clock, agreement in (claims["clocks"] or {}).items():
        yield f"- `{clock}` beside `latency_ms`: {_agreement(agreement)}"
    for metric, seen in (claims["equal_runs"] or {}).items():
        spread = "" if seen["change_most"] is None else (
            f"; changes of {seen['change_median']:.2%} in the median, {seen['change_most']:.2%} at most"
        )  # fmt: skip
        yield (
            f"- Two equal runs, `{metric}`: {seen['alarms']} false alarms and {seen['inconclusive']}"
            f" inconclusive of {seen['verdicts']} verdicts{spread}."
        )
    for impl, reasons in (claims["not_ok"] or {}).items():
        yield f"- `{impl}`, where it did not run: {'; '.join(reason[:300] for reason in reasons)}"


def kernel_lines(folder: Path) -> Iterator[str]:
    """How our kernels stand to their targets and to the best of the others."""
    if (report := _report(folder / "kernels.json")) is None:
        return
    yield from _rehearsed(report)
    yield f"Llama-3-8B's heads in bfloat16, on {report['device']}; medians of cold calls in ms, by events."
    yield ""
    for name, value in report["targets"].items():
        yield f"- {name.replace('_', ' ')}: {'not measured' if value is None else _rounded(value)}"
    cells = [
        (part, cell) for part, of_part in report.items() if isinstance(of_part, list) for cell in of_part
    ]
    if cells:
        yield ""
        yield "| part | batch | q_len | kv_len | KV heads | ms | of roof | best of others | ours over it |"
        yield "|---|---:|---:|---:|---:|---:|---:|---|---:|"
    for part, cell in cells:
        shape = " | ".join(str(cell[key]) for key in ("batch_size", "q_len", "kv_len", "num_kv_heads"))
        yield (
            f"| {part} | {shape} | {_rounded(cell['latency_ms'])} | {_rounded(cell['roof_fraction'])}"
            f" | {cell['best_peer'] or '-'} | {_rounded(cell['latency_over_best_peer'])} |"
        )


def _report(path: Path) -> dict[str, Any] | None:
    """What a step has written; None while it has not."""
    return json.loads(path.read_text()) if path.exists() else None


def _rehearsed(report: dict[str, Any]) -> Iterator[str]:
    if report["rehearsal"]:
        yield "**Rehearsed on tiny problems: these numbers mean nothing.**"
        yield ""


def _by_heads(cache: dict[str, list[int]] | None, times: dict[str, dict[str, float]] | None) -> Iterator[str]:
    if not cache:
        return
    heads = sorted(cache, key=int, reverse=True)
    yield f"| KV heads | {' | '.join(heads)} |"
    yield f"|---|{'---:|' * len(heads)}"
    least = [min(cache[number]) / 2**20 for number in heads]
    yield f"| cache of a layer as held, the least, MiB | {' | '.join(f'{mib:.4g}' for mib in least)} |"
    for impl, of_impl in (times or {}).items():
        cells = [_rounded(of_impl.get(number)) for number in heads]
        yield f"| decode time relative to MHA, `{impl}` | {' | '.join(cells)} |"
    yield ""


def _agreement(seen: dict[str, Any] | None) -> str:
    if seen is None:
        return "no rows long enough."
    return (
        f"{seen['num_rows']} rows, median difference {seen['median_difference']:.2%},"
        f" {seen['share_within_2_percent']:.0%} within 2 %, at most {seen['largest_difference']:.1%}"
        f" ({seen['largest_of']})."
    )


def _counts(counts: dict[str, int] | None) -> str:
    return ", ".join(f"{number} {name}" for name, number in (counts or {}).items()) or "none"


def _rounded(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
