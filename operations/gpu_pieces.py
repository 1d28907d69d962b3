"""The pieces of `make gpu-verification`: what each shows, by which steps, and how long each may take.

Budgets are estimates for a machine with a Hopper GPU (`sweep_parts.expected_seconds`). The steps of a piece
together take no more than `STEPS_SECONDS`, so that a piece ends by itself in time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import kernels_on_gpu
import quick_checks
import reference_runs
from piece_runner import SECONDS, Step
from sweep_parts import Parts, closing_seconds

OPERATIONS = Path(__file__).parent
STEPS_SECONDS = 370.0
"""Of 420: 20 to close, and 30 for unpacking packages and starting Python."""
CLAIMS_SECONDS = 7.0
"""After a sweep, for what it says of the claims, of our kernels or of models."""
_TESTS = {
    "tests": ["-m", "gpu and not alone", "-n", "4", "--dist", "worksteal"],
    "tests_alone": ["-m", "gpu and alone"],
}
_REHEARSED_TESTS = ["tests/operations/test_gpu_kit.py"]


@dataclass(frozen=True)
class Piece:
    """Steps that fit into seven minutes, most telling first; the last piece takes several calls."""

    number: int
    title: str
    steps: tuple[Step, ...]


def pieces(runs: Path, folder: Path, rehearses: bool) -> list[Piece]:
    """Return all pieces. Scripts are told `runs`, and write into `folder`, its `rehearsal` if it is one."""
    steps = _Steps(runs, folder, rehearses)
    return [
        Piece(
            1,
            "Does it work",
            (
                steps.checks(175),
                steps.reference(
                    "end_to_end", 93, "a sweep with graph timing, memory, energy, roofs, a report"
                ),
                steps.reference("kv_heads_glance", 89, "decode with 32, 8, 4 and 1 KV heads"),
            ),
        ),
        Piece(
            2,
            "The point of GQA",
            (
                steps.reference("kv_heads_decode", 118, "cache and decode time by number of KV heads"),
                steps.reference("kv_heads_prefill", 99, "prefill time by number of KV heads"),
                steps.reference("again", 118, "false alarms and spread of two equal runs"),
            ),
        ),
        Piece(
            3,
            "Our kernels",
            (
                steps.kernels("decode_cells", 186, "`triton_decode` in twelve cells"),
                steps.kernels("quantised", 83, "float8 and int8 caches"),
                steps.kernels("prefill", 70, "`triton_prefill`"),
            ),
        ),
        Piece(4, "Models", (steps.models(STEPS_SECONDS),)),
        Piece(
            5,
            "The rest",
            (
                steps.coldness(120),
                *(steps.tests(name) for name in _TESTS),
                steps.reference("kv_heads_energy", 120, "energy by number of KV heads"),
                *(
                    steps.reference(name, STEPS_SECONDS, "the reference study of its name")
                    for name in reference_runs.PARTS
                    if name not in ("kv_heads_decode", "kv_heads_prefill", reference_runs.AGAIN)
                ),
                *(
                    steps.kernels(name, STEPS_SECONDS, "our kernels beside their peers")
                    for name in kernels_on_gpu.PARTS
                    if name not in ("decode_cells", "quantised", "prefill")
                ),
            ),
        ),
    ]


class _Steps:
    """Makes steps of scripts in this folder."""

    def __init__(self, runs: Path, folder: Path, rehearses: bool) -> None:
        self._runs = runs
        self._folder = folder
        self._rehearses = rehearses

    def checks(self, seconds: float) -> Step:
        path = self._folder / "checks.jsonl"
        return self._script(
            "checks",
            "every implementation against float64, NVML, roofs, cold caches: one line each",
            seconds,
            ("quick_checks.py", "--json", str(path)),
            closing_seconds=5,
            is_complete=partial(quick_checks.is_complete, path),
        )

    def reference(self, part: str, seconds: float, shows: str) -> Step:
        command = ("reference_runs.py", "--part", part, "--runs", str(self._runs))
        has_report = (reference_runs.GLANCES | reference_runs.PARTS)[part].has_report
        return self._sweep(part, shows, seconds, command, Parts(self._folder), has_report)

    def kernels(self, part: str, seconds: float, shows: str) -> Step:
        report = str(self._folder / "kernels.json")
        command = ("kernels_on_gpu.py", "--part", part, "--runs", str(self._runs), "--json", report)
        return self._sweep(part, shows, seconds, command, Parts(self._folder / "kernels"))

    def models(self, seconds: float) -> Step:
        report = str(self._folder / "models.json")
        command = ("model_layers.py", "--runs", str(self._runs), "--json", report)
        shows = "decode in the distinct layers of gpt-oss-120b, Qwen3-32B, Gemma 3 27B and Llama 4"
        return self._sweep("model_layers", shows, seconds, command, Parts(self._folder))

    def coldness(self, seconds: float) -> Step:
        report = f"--json={self._folder / 'coldness.json'}"
        command = (sys.executable, str(OPERATIONS / "coldness_by_counters.py"), report)
        return Step(
            "coldness", "bytes read from DRAM after a flush and without one, by `ncu`", command, seconds
        )

    def tests(self, name: str) -> Step:
        chosen = _REHEARSED_TESTS if self._rehearses else _TESTS[name]
        command = (sys.executable, "-m", "pytest", "-q", *chosen, f"--junitxml={self._folder / name}.xml")
        return Step(name, "`make test-gpu`", command, STEPS_SECONDS)

    def _sweep(
        self,
        name: str,
        shows: str,
        seconds: float,
        command: tuple[str, ...],
        parts: Parts,
        has_report: bool = False,
    ) -> Step:
        closing = closing_seconds(has_report) + CLAIMS_SECONDS
        return self._script(
            name,
            shows,
            seconds,
            command,
            closing_seconds=closing,
            least_seconds=5 if self._rehearses else closing + 30,
            is_complete=partial(parts.is_complete, name),
        )

    def _script(
        self,
        name: str,
        shows: str,
        seconds: float,
        command: tuple[str, ...],
        *,
        closing_seconds: float,
        is_complete: Callable[[], bool],
        least_seconds: float = 10,
    ) -> Step:
        script, *arguments = command
        rehearse = ("--rehearse",) if self._rehearses else ()
        return Step(
            name=name,
            shows=shows,
            command=(
                sys.executable, str(OPERATIONS / script), *arguments, "--seconds", SECONDS, *rehearse,
            ),
            seconds=seconds,
            closing_seconds=closing_seconds,
            least_seconds=least_seconds,
            is_complete=is_complete,
        )  # fmt: skip
