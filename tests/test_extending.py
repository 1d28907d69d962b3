"""docs/extending.md, carried out in a copy of this tree: a column, two axes and a figure, an entry each.

What the entries give is looked at in a process of its own, which imports the copy: the keys of a sweep, a
stored run, the frame, the report's table with its unit and words, a panel, a caption.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("gqabench", "conf", "harness", "attention_impls", "results", "reports")

COLUMNS = """
    dram_ms: float | None = _time(
        "Time that the call waited for memory.", unit=Unit.MS, heading="DRAM", shown=_IN_RESULTS
    )
    is_resident: bool | None = _check(
        "Whether the cache stayed where it was.", heading="resident", shown=_IN_RESULTS
    )
"""
AXES = """
    chunk: int | None = axis(
        "Keys of one chunk; null is no chunks.", text="chunks of {tokens}", in_tokens=True
    )
    sinks: bool = axis("Whether softmax has sinks.", text="with sinks", default=False)
"""
MEANINGS = """
    chunk: int | None = None
    sinks: bool = False
"""
FIGURE = """
from matplotlib.figure import Figure

from gqabench.reports.figures.spec import FigureData, FigureSpec
from gqabench.reports.figures.theme import new_figure


def prepare(frame):
    return FigureData(frame, "What is made up.")


def draw(data) -> Figure:
    return new_figure(2.0)


FIGURE = FigureSpec("made_up", "Made up", prepare, draw)
"""

LOOK = """
import json
from dataclasses import replace
from pathlib import Path

from hydra import compose, initialize_config_module

from gqabench.attention_impls import get_impl, list_impls
from gqabench.attention_impls.plugins.promises import stated_reasons
from gqabench.harness.cases.keys import register_keys
from gqabench.harness.cases.plan import plan_case
from gqabench.harness.machine.host import Device, HostDescription
from gqabench.harness.workers.protocol import PROTOCOL_VERSION
from gqabench.reports.figures import registry
from gqabench.reports.frames.problem import where_text
from gqabench.reports.frames.slices import choose_facets
from gqabench.reports.frames.tidy import tidy
from gqabench.reports.page import build_report
from gqabench.reports.tables.glossary import glossary_of
from gqabench.reports.tables.results_table import results_table
from gqabench.results import Outcome, Record, RunFolder, RunHeader, load, load_runs
from gqabench.results.comparison.verdicts import problem_text
from gqabench.results.store.parquet import write_parquet

device = Device(device="cpu", name="some CPU", uuid=None, dtypes=["float32"])
host = HostDescription(
    protocol_version=PROTOCOL_VERSION, python="3.11.7", num_threads=2, libraries={}, impls=list_impls(),
    devices=(device,),
)


def plan(*overrides):
    register_keys()
    with initialize_config_module("gqabench.conf", version_base="1.3"):
        return plan_case(compose("sweep", overrides=["model=gqa_8_2", *overrides]), {"current": host})


header = RunHeader(
    run_id="run-a", status="complete", created_at="2026-01-02T03:04:05+00:00", command="gqabench sweep",
    num_planned_cases=4, num_planned_records=8, seed=0, measure="smoke", gqabench_version="0",
)
folder = RunFolder.create(Path("run"), header)
settings = ([], ["chunk=16", "sinks=true"])
cases = [plan(f"kv_len={length}", *more) for length in (64, 128) for more in settings]
with folder.writer("made-up") as writer:
    for case in cases:
        for impl, latency_ms in (("sdpa", 1.0), ("repeat_kv", 2.0)):
            writer.write(Record(
                run_id="run-a", case_id=case.case_id, cell_id=f"{case.case_id}-{impl}", impl=impl,
                environment="current", outcome=Outcome.OK, latency_ms=latency_ms, dram_ms=latency_ms / 8,
                is_resident=None if impl == "repeat_kv" else True, **case.shape_fields(),
                **case.model_fields(),
            ))
rows = load_runs(folder.path).rows
write_parquet(folder.path / "records.parquet", rows, [header])
for file in folder.record_files():
    file.unlink()
frame = load(folder.path)
tidied = tidy(frame)
table = results_table(tidied)
_, facets = choose_facets(tidied, fixed=["kv_len"])
(blank,) = (figure for figure in registry.FIGURES if figure.name == "made_up")
registry.FIGURES = tuple(replace(figure, draw=blank.draw) for figure in registry.FIGURES)  # looked at is none
page = build_report(frame, header.__dict__, Path("report")).read_text()
print(json.dumps({
    "rows": load_runs(folder.path).rows == rows,
    "dtypes": {name: str(frame[name].dtype) for name in ("dram_ms", "is_resident", "chunk", "sinks")},
    "num_resident_unknown": frame["is_resident"].isna().sum().item(),
    "sums": [frame["sinks"].sum().item(), frame["chunk"].sum().item()],
    "case_id": cases[0].case_id,
    "num_cases": len({case.case_id for case in cases}),
    "problem": problem_text(rows[-1]),
    "titles": [column.title for column in table.columns],
    "cells": [[cell.text for cell in group.rows[0]] for group in table.groups],
    "headings": [group.title for group in table.groups],
    "note": results_table(tidied[tidied["chunk"].isna()]).note,
    "words": dict(glossary_of(tidied)),
    "facets": [facets.column, list(facets.columns)],
    "panel_titles": [facets.column_title(tidied, value) for value in facets.columns],
    "where": where_text(tidied.iloc[-1], tidied),
    "figures": [path.stem for path in Path("report/figures").glob("*.png")],
    "reasons": [stated_reasons(get_impl("sdpa"), case.problem) for case in cases[:2]],
    "on_the_page": all(text in page for text in ("DRAM (ms)", "resident", "chunks of 16")),
}))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with the entries, each put after the line that `docs/extending.md` names."""
    copy = tmp_path_factory.mktemp("tree")
    for folder in FOLDERS:
        ignored = shutil.ignore_patterns("runs", "baselines")  # not the compiled files, which still hold
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    insert(copy / "results/record.py", "    samples_ms: list[float] | None =", COLUMNS)
    insert(copy / "results/record.py", "    hf_cache: str | None = axis(", AXES)
    insert(copy / "attention_impls/problem.py", "    def __post_init__", MEANINGS)
    (copy / "reports/figures/made_up.py").write_text(FIGURE)
    insert(copy / "reports/figures/registry.py", '    "speed_up",', '    "made_up",\n')
    return copy


def insert(path: Path, before: str, text: str) -> None:
    content = path.read_text(encoding="utf-8")
    assert content.count(before) == 1, before
    path.write_text(content.replace(before, text.lstrip("\n") + before), encoding="utf-8")


def run_in(tree: Path, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(tree), "MPLBACKEND": "agg"}
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def seen(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    finished = run_in(tree, LOOK, tmp_path_factory.mktemp("seen"))
    assert finished.returncode == 0, finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return found


def test_a_column_is_stored_framed_shown_and_explained(seen: dict[str, Any]) -> None:
    assert seen["rows"], "JSON lines and Parquet hold the same"
    assert (seen["dtypes"]["dram_ms"], seen["dtypes"]["is_resident"]) == ("float64", "boolean")
    assert seen["num_resident_unknown"] == 4
    assert seen["titles"] == ["impl", "latency (ms)", "DRAM (ms)", "resident"]
    assert seen["cells"][0] == ["sdpa", "1.00", "0.125", "yes"]
    assert seen["words"]["DRAM"] == "Time that the call waited for memory."
    assert seen["words"]["resident"] == "Whether the cache stayed where it was."


def test_an_axis_that_an_implementation_does_not_serve_is_unsupported(seen: dict[str, Any]) -> None:
    assert seen["reasons"] == [
        [],
        ["chunk=16: sdpa does not serve chunk", "sinks=True: sdpa does not serve sinks"],
    ]


def test_an_axis_is_a_key_a_column_a_heading_a_facet_and_of_the_identity(seen: dict[str, Any]) -> None:
    assert (seen["dtypes"]["chunk"], seen["dtypes"]["sinks"]) == ("Int64", "bool")
    assert seen["sums"] == [4, 64]
    assert seen["num_cases"] == 4
    assert seen["problem"].endswith("float32, chunk 16, sinks, cpu")
    assert any(heading.endswith("no chunk · no sinks") for heading in seen["headings"])
    assert any(heading.endswith("chunks of 16 · with sinks") for heading in seen["headings"])
    assert "chunk" not in seen["note"], "what is at its default goes without saying"
    assert "sinks" not in seen["note"]
    assert seen["facets"] == ["chunk", [None, 16]]
    assert seen["panel_titles"] == ["no chunk", "chunks of 16"]
    assert "chunks of 16" in seen["where"]
    assert "with sinks" in seen["where"]


def test_ids_of_problems_that_do_not_use_a_new_axis_stay(seen: dict[str, Any]) -> None:
    here: dict[str, Any] = {}
    exec(LOOK.partition("header = ")[0], here)
    assert here["plan"]("kv_len=64").case_id == seen["case_id"]


def test_a_figure_is_on_the_page(seen: dict[str, Any]) -> None:
    assert "made_up" in seen["figures"]
    assert seen["on_the_page"]


def test_a_column_of_a_type_that_cannot_be_stored_is_named_at_import(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    insert(
        copy / "results/record.py",
        "    kernels: list[str] | None =",
        "    odd: set[int] | None = _check('Odd.')\n",
    )
    finished = run_in(copy, "import gqabench.results", tmp_path)
    assert "TypeError: odd: no column can be of type set[int] | None; valid: bool, int" in finished.stderr
