"""Committed reference runs: `results/baselines/MACHINE/STUDY/`, small enough for a repository.

records.parquet   the records, raw samples thinned, with the headers of their runs
baseline.json     where they come from, and how they were thinned
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gqabench.results.columns import sample_columns
from gqabench.results.store.load import load_runs
from gqabench.results.store.machine_identity import machine_name, revision_text
from gqabench.results.store.parquet import read_parquet, write_parquet
from gqabench.results.store.run_folder import PARQUET_NAME, RunHeader

BASELINES_FOLDER = Path("results/baselines")
DESCRIPTION_NAME = "baseline.json"
MAX_SAMPLES = 25
THINNING = (
    f"of more than {MAX_SAMPLES} samples of a record, {MAX_SAMPLES} at even distances in their order stay, "
    "the first and the last among them; medians and intervals are those of all samples"
)


class NoBaseline(ValueError):
    """Runs that cannot become a baseline. One line that says why, and what would be."""


@dataclass(frozen=True)
class Baseline:
    """One committed baseline."""

    folder: Path
    machine: str
    study: str
    num_by_outcome: Mapping[str, int]
    num_bytes: int
    headers: list[RunHeader]

    @property
    def num_records(self) -> int:
        return sum(self.num_by_outcome.values())

    @property
    def revisions(self) -> str:
        """Git revisions of the code that was measured."""
        return ", ".join(dict.fromkeys(revision_text(header) or "unknown" for header in self.headers))


def write_baseline(runs: list[str], into: Path, study: str | None, command: str) -> Baseline:
    """Write the baseline of some complete runs of one study on one machine; replaces the one before.

    Raises `NoBaseline`, `UnreadableRun`, or `OSError` when it cannot be written.
    """
    loaded = [load_runs(run) for run in runs]
    headers = [header for one in loaded for header in one.headers]
    newest = {_cell(row): row for one in loaded for row in one.rows}  # measured again where one had failed
    rows = [_thinned(row) for row in newest.values()]
    num_planned = sum(header.num_planned_records for header in headers)
    if len(rows) < num_planned:
        raise NoBaseline(
            f"{' '.join(runs)}: holds {len(rows)} of {num_planned} planned records; name complete runs"
        )
    study = study or _the_study(headers, runs)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", study):
        raise NoBaseline(f"--study {study}: must be letters, digits, _ and -")
    folder = into / _the_machine(headers, runs) / study
    folder.mkdir(parents=True, exist_ok=True)
    write_parquet(folder / PARQUET_NAME, rows, [_without_host(header) for header in headers])
    description = {
        "made_with": command,
        "measured_with": [header.command for header in headers],
        "runs": [header.run_id for header in headers],
        "measured_at": [header.created_at for header in headers],
        "git_revisions": [revision_text(header) for header in headers],
        "num_records": len(rows),
        "samples": THINNING,
    }
    (folder / DESCRIPTION_NAME).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return read_baseline(folder)


def read_baseline(folder: Path) -> Baseline:
    """Return the baseline in a folder. Raises `ValueError` or `OSError` where there is none."""
    parquet = folder / PARQUET_NAME
    rows, headers = read_parquet(parquet)
    num_bytes = sum(path.stat().st_size for path in folder.iterdir())
    outcomes = Counter(row["outcome"] for row in rows)
    return Baseline(folder, folder.parent.name, folder.name, outcomes, num_bytes, headers)


def list_baselines(folder: Path) -> Iterator[Baseline]:
    """Yield the baselines below a folder, by machine and study."""
    for path in sorted(folder.glob(f"*/*/{PARQUET_NAME}")):
        yield read_baseline(path.parent)


def thin(samples: list[float]) -> list[float]:
    """Return at most `MAX_SAMPLES` of them, at even distances in their order, first and last included."""
    if len(samples) <= MAX_SAMPLES:
        return samples
    step = (len(samples) - 1) / (MAX_SAMPLES - 1)
    return [samples[round(place * step)] for place in range(MAX_SAMPLES)]


def _cell(row: dict[str, Any]) -> tuple[object, ...]:
    """Return what a run has one record of."""
    return row["run_id"], row["case_id"], row["impl"], row["environment"]


def _thinned(row: dict[str, Any]) -> dict[str, Any]:
    """Return the record with fewer samples, each to seven digits: finer than any clock.

    How many each slice had would be no longer true.
    """
    kept = {
        column: None if row[column] is None else [float(f"{value:.7g}") for value in thin(row[column])]
        for column in sample_columns()
    }
    return row | kept | {"slice_sizes": None, "warm_slice_sizes": None}


def _the_study(headers: list[RunHeader], runs: list[str]) -> str:
    studies = {header.study for header in headers}
    if len(studies) != 1 or None in studies:
        names = ", ".join(sorted(str(study) for study in studies)) or "none"
        raise NoBaseline(
            f"{' '.join(runs)}: of several studies or none ({names}); name the baseline with --study NAME"
        )
    return str(studies.pop())


def _the_machine(headers: list[RunHeader], runs: list[str]) -> str:
    named = " ".join(runs)
    machines = {machine_name(header) for header in headers}
    if not headers or None in machines:
        raise NoBaseline(f"{named}: the machine is not recorded; name folders of runs, not files of records")
    if len(machines) > 1:
        raise NoBaseline(f"{named}: of different machines: {', '.join(sorted(map(str, machines)))}")
    if cut := [header.run_id for header in headers if header.status != "complete"]:
        raise NoBaseline(f"{named}: incomplete: {', '.join(cut)}; continue with `resume=`")
    return str(machines.pop())


def _without_host(header: RunHeader) -> RunHeader:
    """Return the header without the name of the host, which is private."""
    values = asdict(header)["machine"]
    for machine in (values, *values.get("earlier_machines", [])):
        machine.get("system", {}).pop("hostname", None)
    return replace(header, machine=values)
