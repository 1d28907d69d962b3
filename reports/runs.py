"""The runs that a report is about: their headers as text, and how much of each there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd

from gqabench.reports.frames.tidy import num_cells
from gqabench.reports.units import bytes_text, count_text, is_missing, percent_text, plural

Header = Mapping[str, Any]
MAX_FACT = 400
MISSING_ROWS = "What is missing is not drawn."


@dataclass(frozen=True)
class Fact:
    """A name and a value of the machine or the run; `depth` is how far it stands inside others."""

    name: str
    value: str
    depth: int = 0


@dataclass(frozen=True)
class RunView:
    """One run as the page shows it."""

    run_id: str
    status: str
    line: str
    """The run in one line: date, device, torch, threads."""
    warning: str
    """Why this is not the whole run; empty when it is."""
    command: str
    facts: tuple[Fact, ...]
    """What was asked for."""
    machine: tuple[Fact, ...]


def run_views(frame: pd.DataFrame, headers: Sequence[Header]) -> list[RunView]:
    """Return a view of every header, and of every run of the frame that has none."""
    views = [_view(frame, header, len(headers)) for header in headers]
    known = {view.run_id for view in views}
    is_named = any(header.get("run_id") for header in headers) or not headers
    if is_named and "run_id" in frame:
        present = [str(run_id) for run_id in frame["run_id"].dropna().unique()]
        views += [_view(frame, {"run_id": run_id}, 2) for run_id in present if run_id not in known]
    return views or [_view(frame, {}, 1)]


def _view(frame: pd.DataFrame, header: Header, num_headers: int) -> RunView:
    run_id = _text(header.get("run_id"))
    rows = frame[frame["run_id"].astype(str) == run_id] if run_id and "run_id" in frame else frame
    if num_headers == 1 and len(rows) == 0:
        rows = frame
    status = _text(header.get("status")) or "unknown status"
    machine = header.get("machine")
    machine = machine if isinstance(machine, Mapping) else {}
    names = ("study", "measure", "seed", "num_planned_cases", "num_planned_records", "gqabench_version")
    facts = [Fact(_name(key), _value(key, header[key])) for key in names if not _is_absent(header.get(key))]
    command = header.get("command")
    command = " ".join(str(part) for part in command) if isinstance(command, list | tuple) else _text(command)
    return RunView(
        run_id=run_id or "unnamed run",
        status=status,
        line=_run_line(rows, header, machine),
        warning=partial_warning(status, num_cells(rows), header.get("num_planned_records")),
        command=command,
        facts=(*facts, Fact("records", count_text(len(rows)))),
        machine=tuple(flat_facts(machine)),
    )


def partial_warning(status: str, num_records: int, num_planned: Any) -> str:
    """Return a sentence where a run is not whole, by its status or by how many records were planned."""
    planned = (
        int(num_planned) if isinstance(num_planned, int | float) and not is_missing(num_planned) else None
    )
    short = planned is not None and num_records < planned
    if status not in {"partial", "running"} and not short:
        return ""
    what = {"running": "This run is still running", "partial": "This run is partial"}.get(
        status, "Records are missing"
    )
    if planned is None:
        return f"{what}: {plural(num_records, 'record')} so far, of an unknown number planned."
    share = f" ({percent_text(num_records / planned)})" if planned else ""
    return f"{what}: {num_records:,} of {plural(planned, 'planned record')} exist{share}. " + MISSING_ROWS


def _run_line(rows: pd.DataFrame, header: Header, machine: Header) -> str:
    devices = (
        [] if "device_name" not in rows else [str(name) for name in rows["device_name"].dropna().unique()]
    )
    device = _text(machine.get("device_name")) or ", ".join(devices[:3]) or _first(machine, "name", "cpu")
    torch = _first(machine.get("libraries"), "torch") or _first(machine, "torch_version", "torch")
    parts = [_date(header.get("created_at")), device, f"torch {torch}" if torch else "", _threads(machine)]
    environments = machine.get("environments")
    for name, described in environments.items() if isinstance(environments, Mapping) else ():
        version = _first(described.get("libraries"), "torch") if isinstance(described, Mapping) else ""
        parts.append(f"{name}: torch {version}" if version else "")
    return " · ".join(part for part in parts if part)


def _threads(machine: Header) -> str:
    threads = machine.get("threads")
    number = threads.get("num_torch_threads") if isinstance(threads, Mapping) else None
    return plural(number, "thread") if isinstance(number, int) else ""


def flat_facts(values: Any, name: str = "", depth: int = 0) -> list[Fact]:
    """Return a nested description as lines in its own order; what is unknown is left out."""
    if isinstance(values, Mapping):
        heading = [Fact(_name(name), "", depth)] if name else []
        inner = [
            fact
            for key, value in values.items()
            for fact in flat_facts(value, str(key), depth + (1 if name else 0))
        ]
        return heading + inner if inner else []
    if isinstance(values, list | tuple) and any(isinstance(value, Mapping) for value in values):
        numbered = [
            flat_facts(value, name if len(values) == 1 else f"{name} {place}", depth)
            for place, value in enumerate(values)
        ]
        return [fact for facts in numbered for fact in facts]
    return [] if _is_absent(values) else [Fact(_name(name), _value(name, values), depth)]


def _value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return _cut(", ".join(str(one) for one in value))
    if isinstance(value, int | float) and name.endswith("_bytes"):
        return bytes_text(value)
    return _cut(str(value))


def _name(key: str) -> str:
    return key.removesuffix("_bytes").replace("_", " ")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_FACT else f"{text[:MAX_FACT]}…"


def _is_absent(value: Any) -> bool:
    return value is None or value in ("", [], {}) or (isinstance(value, float) and is_missing(value))


def _first(values: Any, *names: str) -> str:
    """Return the first plain value under one of the names, searched through all levels."""
    if isinstance(values, Mapping):
        for name in names:
            if isinstance(values.get(name), str | int | float):
                return str(values[name])
    inner = (
        values.values() if isinstance(values, Mapping) else values if isinstance(values, list | tuple) else ()
    )
    return next((found for value in inner if (found := _first(value, *names))), "")


def _text(value: Any) -> str:
    return "" if _is_absent(value) else str(value)


def _date(value: Any) -> str:
    text = _text(value)
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return text
    return f"{moment:%Y-%m-%d %H:%M}" + (
        " UTC" if moment.utcoffset() is not None and not moment.utcoffset() else ""
    )
