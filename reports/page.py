"""The report of one run or several: a self-contained page, its Markdown twin, and the figures as files."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from gqabench.reports.figures import Drawing, draw_figures
from gqabench.reports.findings import key_findings
from gqabench.reports.frames.tidy import tidy
from gqabench.reports.runs import Header, run_views
from gqabench.reports.tables.glossary import glossary_of, method_notes
from gqabench.reports.tables.markdown import markdown, markdown_text
from gqabench.reports.tables.memory_table import MEMORY_MEANING, memory_table
from gqabench.reports.tables.results_table import failures_table, flags_table, outcomes_table, results_table
from gqabench.reports.tables.setup_times import setup_table
from gqabench.reports.tables.timed_calls import TIMED_CALL_MEANING, timed_calls_table
from gqabench.reports.writing import write_atomically

FIGURES_FOLDER = "figures"
MAX_SVG_BYTES = 400_000
"""A larger drawing stands on the page as PNG, so that the page stays light."""

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=lambda name: name is not None and ".html" in name,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def build_report(frame: pd.DataFrame, header: Header | Sequence[Header], folder: Path) -> Path:
    """Write `report.html`, `report.md` and `figures/` into `folder`; returns the path of the page.

    `frame` has one row a record (`gqabench.load`), of one run or of several; it is not changed. `header` is
    the description of the run, or a list of them: run_id, status, created_at, command, study,
    num_planned_records, machine, seed, measure, each optional. Raises `OSError` when `folder` cannot be
    written.
    """
    headers = [header] if isinstance(header, Mapping) else list(header)
    tidied = tidy(frame)
    drawings, left_out = draw_figures(tidied)
    context = {
        "title": _title(headers),
        "runs": run_views(frame, headers),
        "findings": key_findings(tidied),
        "drawings": drawings,
        "left_out": left_out,
        "results": results_table(tidied),
        "timed_calls": timed_calls_table(tidied),
        "timed_call_meaning": TIMED_CALL_MEANING,
        "memory": memory_table(tidied),
        "memory_meaning": MEMORY_MEANING,
        "setup": setup_table(tidied),
        "failures": failures_table(tidied),
        "outcomes": outcomes_table(tidied),
        "flags": flags_table(tidied),
        "method": method_notes(tidied),
        "glossary": glossary_of(tidied),
        "num_records": len(tidied),
    }
    for drawing in drawings:
        write_atomically(folder / FIGURES_FOLDER / f"{drawing.name}.png", drawing.png)
        write_atomically(folder / FIGURES_FOLDER / f"{drawing.name}.svg", drawing.svg)
    write_atomically(folder / "report.md", _markdown(context).encode())
    page = folder / "report.html"
    write_atomically(page, _html(context).encode())
    return page


def image_uri(drawing: Drawing) -> str:
    """Return the figure as a `data:` address: nothing to fetch, and nothing in it can run."""
    kind, content = ("svg+xml", drawing.svg) if len(drawing.svg) <= MAX_SVG_BYTES else ("png", drawing.png)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _title(headers: Sequence[Header]) -> str:
    studies = list(dict.fromkeys(str(header["study"]) for header in headers if header.get("study")))
    return f"GQABench: {', '.join(studies)}" if studies else "GQABench"


def _html(context: dict[str, Any]) -> str:
    css = (Path(__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    page = _TEMPLATES.get_template("report.html.j2")
    return page.render(context, css=Markup(css), image_uri=image_uri)


def _markdown(context: dict[str, Any]) -> str:
    page = _TEMPLATES.get_template("report.md.j2")
    return page.render(context, table=markdown, md=markdown_text, figures=FIGURES_FOLDER)
