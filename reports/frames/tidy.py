"""The frame that all of the report works on: known columns, plain types, one label for each arm."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd

from gqabench.results.axes import PROBLEM_KEYS
from gqabench.results.columns import COLUMNS, sample_columns
from gqabench.results.record import FINAL_OUTCOMES, Outcome

NUMERIC_FIELDS = frozenset(column.name for column in COLUMNS.values() if column.type.is_number)
"""Columns that hold one number; they become floats, with NaN for "not measured"."""

CELL_KEYS = ("run_id", "cell_id", "impl", "environment", "model")
"""What is measured once in a run. Models of one shape share a cell's id, and each has its row."""

SEQUENCES = (list, tuple, np.ndarray)
"""What a column of lists may hold: Parquet gives arrays, JSON lists."""

_MAX_LABEL = 30
PHASE_ORDER = ("decode", "prefill", "extend")


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a new frame with the columns of `Record` and of the report; the one given stays as it is.

    Added: `num_samples`; `num_sampled_queries`, how many were checked where not all were; `stage`, the
    phase, or workload and phase where they differ; `arm`, the label of an implementation in its environment
    and run; `variant`, its number among arms of the same impl. A latency remains only where the outcome is
    `ok`. A failure that was measured again later is left out.
    """
    # Long and not shown; `num_samples` stands in for them.
    dropped = {*sample_columns(), "slice_sizes", "warm_slice_sizes"}
    given = frame.reindex(columns=[name for name in COLUMNS if name not in dropped])
    columns: dict[str, Any] = {name: _column(given[name]) for name in given.columns}
    out = pd.DataFrame(columns, index=pd.RangeIndex(len(given)))
    samples = frame["samples_ms"] if "samples_ms" in frame else pd.Series([None] * len(frame), dtype=object)
    out["num_samples"] = np.array([_num_samples(value) for value in samples], dtype=float)
    out["flags"] = _objects([_names(value) for value in out["flags"]])
    out["outcome"] = _objects([str(value) for value in out["outcome"]])
    timed = (out["outcome"] == Outcome.OK.value) & (out["latency_ms"] > 0)
    for name in ("latency_ms", "latency_ci_low_ms", "latency_ci_high_ms", "tokens_per_s"):
        out[name] = out[name].where(timed)
    out["num_sampled_queries"] = out["num_checked_queries"].where(out["num_checked_queries"] < out["q_len"])
    out["stage"] = _objects([_stage(*pair) for pair in zip(out["workload"], out["phase"], strict=True)])
    out = _without_superseded(out)
    return _with_arms(out)


def ok_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return rows of a tidy frame whose outcome is `ok` and that have a latency."""
    return frame[(frame["outcome"] == Outcome.OK.value) & frame["latency_ms"].notna()]


def cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Return `ok_rows`, one row for each arm and problem: of several records, that of the middle latency."""
    rows = ok_rows(frame).sort_values("latency_ms", kind="stable")
    keys = ["arm", *PROBLEM_KEYS]
    if not rows.duplicated(keys).any():
        return rows.sort_index()
    grouped = rows.groupby(keys, dropna=False, sort=False)
    place, size = grouped.cumcount(), grouped["latency_ms"].transform("size")
    return rows[place == (size - 1) // 2].sort_index()


def failed_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return rows of a tidy frame whose outcome is anything but `ok`."""
    return frame[frame["outcome"] != Outcome.OK.value]


def stages(frame: pd.DataFrame) -> list[str]:
    """Return the stages of a tidy frame: decode, prefill, extend, then others by name."""
    present = {str(value) for value in frame["stage"]}
    return [*(one for one in PHASE_ORDER if one in present), *sorted(present - set(PHASE_ORDER))]


def num_cells(frame: pd.DataFrame) -> int:
    """Return distinct cells of a raw frame of one run: what counts against the planned records."""
    if "cell_id" not in frame or frame["cell_id"].isna().any():
        return len(frame)
    return len(frame.drop_duplicates([key for key in CELL_KEYS if key in frame]))


def _column(values: pd.Series[Any]) -> Any:
    if values.name in NUMERIC_FIELDS:
        return pd.to_numeric(values, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    known = values.astype(object).where(values.notna(), None)
    return pd.Series(known.to_numpy(), dtype=object)  # counted afresh, whatever the frame's index is


def _objects(values: list[Any]) -> Any:
    """Return a column that keeps its values as they are: pandas would turn None in text into NaN."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return pd.Series(column, dtype=object)


def _num_samples(value: Any) -> float:
    return float(len(value)) if isinstance(value, SEQUENCES) else np.nan


def _names(value: Any) -> tuple[str, ...]:
    return tuple(str(name) for name in value) if isinstance(value, SEQUENCES) else ()


def _stage(workload: Any, phase: Any) -> str:
    names = [str(name) for name in (workload, phase) if name is not None]
    return names[0] if len(set(names)) == 1 else " ".join(names)


def _without_superseded(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop failures of a cell that a resumed sweep measured again, to a final answer or another failure."""
    if frame["cell_id"].isna().any():
        return frame
    keys = list(CELL_KEYS)
    final = frame["outcome"].isin([outcome.value for outcome in FINAL_OUTCOMES])
    answered = final.groupby([frame[key] for key in keys], dropna=False).transform("any")
    repeated = frame.duplicated(keys, keep="last")
    return frame[final | ~(answered | repeated)].reset_index(drop=True)


def _with_arms(frame: pd.DataFrame) -> pd.DataFrame:
    """Add `arm` and `variant`. Environment and run are named only where arms differ in them."""
    frame = frame.assign(arm=_objects([]), variant=0) if len(frame) == 0 else frame.copy()
    if len(frame) == 0:
        return frame
    environments = list(dict.fromkeys(frame["environment"]))
    runs = list(dict.fromkeys(frame["run_id"]))
    name_runs = len(runs) > 1 and _runs_overlap(frame)
    labels = impl_labels(list(dict.fromkeys(frame["impl"])))
    parts = list(zip(frame["impl"], frame["environment"], frame["run_id"], strict=True))
    arms: dict[tuple[Any, Any, Any], str] = {}
    for impl, environment, run_id in dict.fromkeys(parts):
        label = labels[impl]
        label += f" @ {environment}" if len(environments) > 1 else ""
        label += f" · run {runs.index(run_id) + 1}" if name_runs else ""
        arms[impl, environment, run_id] = label
    variants: dict[str, list[str]] = {}
    for (impl, _, _), label in arms.items():
        seen = variants.setdefault(str(impl), [])
        if label not in seen:
            seen.append(label)
    frame["arm"] = _objects([arms[part] for part in parts])
    frame["variant"] = [variants[str(part[0])].index(arms[part]) for part in parts]
    return frame


def _runs_overlap(frame: pd.DataFrame) -> bool:
    """Return whether to tell runs apart: other devices, or most of a run's cells are in another one too.

    Runs of different studies that share a few cells are read as one larger run.
    """
    if frame["device_name"].nunique(dropna=False) > 1:
        return True
    once = frame.drop_duplicates(["run_id", "impl", "environment", *PROBLEM_KEYS])
    shared = once.duplicated(["impl", "environment", *PROBLEM_KEYS], keep=False)
    return bool((shared.groupby(once["run_id"]).mean() > 0.5).any())


def impl_labels(impls: list[Any]) -> dict[Any, str]:
    """Return short labels: `path/to/file.py:Class` without its folders, long names cut; never two alike."""
    short = {impl: _short_name(str(impl)) for impl in impls}
    counts = pd.Series(list(short.values()), dtype=object).value_counts()
    return {impl: label if counts[label] == 1 else str(impl) for impl, label in short.items()}


def _short_name(impl: str) -> str:
    name = PurePath(impl).name if ".py:" in impl else impl
    return name if len(name) <= _MAX_LABEL else f"{name[: _MAX_LABEL - 1]}…"
