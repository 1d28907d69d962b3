"""One side of a comparison: a run or several, as the records of each cell, one of each run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from gqabench.results.comparison.verdicts import CellKey, cell_key
from gqabench.results.record import FINAL_OUTCOMES
from gqabench.results.store.load import load_runs
from gqabench.results.store.machine_identity import machine_name
from gqabench.results.store.run_folder import RunHeader

Row = dict[str, Any]


class NotComparable(ValueError):
    """Two sides have nothing to compare, or must not be compared. One line that says what would be."""


@dataclass(frozen=True)
class Side:
    """Records by cell. Of a cell that a run measured twice, the later answer counts."""

    name: str
    """As it was given: a path or a glob."""
    cells: dict[CellKey, list[Row]]
    headers: list[RunHeader]
    num_runs: int
    warnings: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    """Runs that were named, and stand on the other side"""

    @property
    def machines(self) -> set[str | None]:
        """Names of the machines; None is one that no header tells."""
        return {machine_name(header) for header in self.headers} or {None}

    @property
    def run_ids(self) -> set[str]:
        return {row["run_id"] for rows in self.cells.values() for row in rows}

    def without(self, other: Side) -> Side:
        """Leave out another side's runs, for `compare 'runs/*' runs/latest`; itself where none would stay."""
        shared = self.run_ids & other.run_ids
        if not shared or shared == self.run_ids:
            return self
        cells = {
            cell: kept
            for cell, rows in self.cells.items()
            if (kept := [row for row in rows if row["run_id"] not in shared])
        }
        headers = [header for header in self.headers if header.run_id not in shared]
        return replace(
            self,
            cells=cells,
            headers=headers,
            num_runs=self.num_runs - len(shared),
            left_out=tuple(sorted(shared)),
        )

    @property
    def studies(self) -> set[str]:
        """Names of the studies; a sweep without one has none."""
        return {header.study for header in self.headers if header.study is not None}

    @property
    def is_cut_short(self) -> bool:
        """Whether a run of it did not come to its end, or lost records."""
        has_lost = bool(self.warnings) or not self.headers
        return has_lost or any(header.status != "complete" for header in self.headers)


def load_side(path: str) -> Side:
    """Read a run, or a glob of runs. Raises `UnreadableRun`, or `NotComparable` where it holds no records."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = load_runs(path)
    if not loaded.rows:
        raise NotComparable(f"{path}: holds no records; name a run that measured something")
    by_run: dict[tuple[str, CellKey], Row] = {}
    for row in loaded.rows:
        place = (row["run_id"], cell_key(row))
        if place not in by_run or _is_final(row) or not _is_final(by_run[place]):
            by_run[place] = row
    cells: dict[CellKey, list[Row]] = {}
    for (_, cell), row in by_run.items():
        cells.setdefault(cell, []).append(row)
    num_runs = len({run_id for run_id, _ in by_run})
    return Side(path, cells, loaded.headers, num_runs, tuple(str(one.message) for one in caught))


def shared_cells(base: Side, new: Side) -> Iterator[tuple[CellKey, list[Row], list[Row]]]:
    """Return the base's cells with the records of both sides; of one that the new side lacks, none there."""
    for cell, rows in base.cells.items():
        yield cell, rows, new.cells.get(cell, [])


def _is_final(row: Row) -> bool:
    return row["outcome"] in FINAL_OUTCOMES
