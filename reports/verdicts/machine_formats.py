"""A comparison for machines: JUnit XML, GitHub's annotations, and the JSON of github-action-benchmark."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree

from gqabench.reports.verdicts.moved_environment import moved_text
from gqabench.reports.verdicts.wording import sentence, why
from gqabench.results.comparison.metrics import METRICS
from gqabench.results.comparison.verdicts import Answer, Comparison, Verdict

MAX_ANNOTATIONS = 10
"""GitHub shows ten of a kind for each step."""

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write (section 2.2)."""


def comparison_json(comparison: Comparison) -> str:
    """Return everything, as one JSON object."""
    return json.dumps(comparison.to_dict(), indent=1, allow_nan=False) + "\n"


def junit_xml(comparison: Comparison) -> str:
    """Return a test case for each verdict: a regression is a failure, an inconclusive one is skipped."""
    suite = ElementTree.Element(
        "testsuite",
        name="gqabench",
        tests=str(len(comparison.verdicts)),
        failures=str(len(comparison.regressions)),
        errors="0",
        skipped=str(len(comparison.inconclusive)),
    )
    for verdict in comparison.verdicts:
        name = _xml_text(f"{verdict.cell.problem or verdict.cell.case_id} [{verdict.metric}]")
        case = ElementTree.SubElement(suite, "testcase", classname=_xml_text(verdict.cell.arm), name=name)
        if verdict.answer == Answer.REGRESSION:
            failure = ElementTree.SubElement(case, "failure", message=_xml_text(why(verdict)))
            failure.text = _xml_text(sentence(verdict))
        elif verdict.answer == Answer.INCONCLUSIVE:
            ElementTree.SubElement(case, "skipped", message=_xml_text(why(verdict)))
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites, " ")
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def github_annotations(comparison: Comparison, inconclusive: str = "warn") -> list[str]:
    """Return workflow commands, one a line: an error for a regression, a warning for an inconclusive cell.

    A moved environment is a notice.
    """
    lines = []
    open_ones = [] if inconclusive == "pass" else comparison.inconclusive
    for level, verdicts in (("error", comparison.regressions), ("warning", open_ones)):
        title = "GQABench: " + ("regression" if level == "error" else "inconclusive")
        lines += [f"::{level} title={title}::{_escaped(sentence(one))}" for one in verdicts[:MAX_ANNOTATIONS]]
        if len(verdicts) > MAX_ANNOTATIONS:
            lines.append(f"::{level} title={title}::and {len(verdicts) - MAX_ANNOTATIONS} more")
    if (moved := moved_text(comparison)) is not None:
        lines.append(f"::notice title=GQABench: environment::{_escaped(moved)}")
    return lines


def benchmark_action_json(comparison: Comparison) -> str:
    """Return what github-action-benchmark stores, as its `customSmallerIsBetter`: the new side's numbers."""
    entries = [_benchmark_entry(verdict) for verdict in comparison.verdicts if _is_smaller_better(verdict)]
    return json.dumps(entries, indent=1, allow_nan=False) + "\n"


def _benchmark_entry(verdict: Verdict) -> dict[str, Any]:
    entry = {
        "name": f"{verdict.cell.label} [{verdict.metric}]",
        "unit": METRICS[verdict.metric].unit,
        "value": verdict.new,
        "extra": why(verdict),
    }
    low, high = verdict.change_low, verdict.change_high
    if low is not None and high is not None:
        entry["range"] = f"± {(high - low) / 2:.1%}"
    return entry


def _is_smaller_better(verdict: Verdict) -> bool:
    metric = METRICS.get(verdict.metric)
    return metric is not None and not metric.higher_is_better and isinstance(verdict.new, int | float)


def _escaped(text: str) -> str:
    """Return data of a workflow command: on one line, its own signs escaped."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _xml_text(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
